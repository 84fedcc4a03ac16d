"""Files of plans and of optimizers with their plan: written whole or not at all, and read without running code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from normc.arguments import instance
from normc.errors import NormcError
from normc.files import path_of, read_bytes, unwritable
from normc.optimizer import Optimizer
from normc.plans.plan import NormPlan

SCHEMA, VERSION = "normc-checkpoint", 1
_KEYS = {"schema", "version", "plan", "optimizer"}


@dataclass(frozen=True)
class Checkpoint:
    """An optimizer's file: its plan, and what its state_dict() was.

    `normc.compile(model, plan=checkpoint.plan, lr=...)` makes the optimizer anew; `load_state_dict(checkpoint.state)`
    gives it its states.
    """

    plan: NormPlan
    state: dict[str, Any]


def save(source: Optimizer | NormPlan, path: str | Path) -> Path:
    """Write a plan (as JSON), or an optimizer's plan and state, to `path` and return it.

    Whoever reads `path` meanwhile, or after a crash, finds the file that was there before, or the whole new one.
    NormcError for anything else, for an optimizer that has no plan yet, and where the file can't be written.
    """
    if isinstance(source, NormPlan):
        content = source.to_json().encode()
    elif isinstance(source, Optimizer):
        held = {"schema": SCHEMA, "version": VERSION, "plan": source.plan.to_json(), "optimizer": source.state_dict()}
        file = io.BytesIO()
        torch.save(held, file)
        content = file.getvalue()
    else:
        raise NormcError(f"a {type(source).__name__} can't be saved", "give an optimizer of normc.compile, or a plan")
    place = path_of(path)
    try:
        _replace(place, content)
    except (OSError, ValueError) as problem:
        raise unwritable(place, problem) from problem
    return place


def load(path: str | Path, into: Optimizer | None = None, *, map_location: Any = None) -> NormPlan | Checkpoint:
    """What `save` wrote: a plan, or a `Checkpoint`. No code of the file's is run (`weights_only`).

    into          load it: an optimizer takes the checkpoint's state; one that has no plan yet adopts the file's first
    map_location  where tensors go, as for torch.load

    NormcError for what isn't such a file or was damaged, and as `load_state_dict` for what `into` can't take.
    """
    if into is not None:
        instance("into", into, Optimizer, "give what normc.compile returned")
    content = read_bytes(path, "give what normc.save wrote")
    plan, state = _read(str(path), content, map_location)
    if into is not None and not into.update.ready:
        into.adopt(plan)
    if state is None:
        return plan
    if into is not None:
        into.load_state_dict(state)
    return Checkpoint(plan, state)


def _read(path: str, content: bytes, map_location: Any) -> tuple[NormPlan, dict[str, Any] | None]:
    if content.lstrip()[:1] == b"{":
        try:
            return NormPlan.from_json(content.decode()), None
        except UnicodeDecodeError as problem:
            raise NormcError(f"{path!r} is no text", "give what normc.save wrote") from problem
    try:
        held = torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as problem:
        raise NormcError(f"{path!r} is no checkpoint of normc.save, or damaged", "load another copy") from problem
    if not isinstance(held, dict) or held.get("schema") != SCHEMA or not set(held) >= _KEYS:
        fix = "give what normc.save wrote; load a state_dict by opt.load_state_dict(torch.load(path))"
        raise NormcError(f"{path!r} was not written by normc.save", fix)
    if held["version"] != VERSION:
        raise NormcError(f"{path!r} has version {held['version']}, this normc reads {VERSION}", "use a newer normc")
    return NormPlan.from_json(held["plan"]), held["optimizer"]


def _replace(path: Path, content: bytes) -> None:
    """Put a file in another's place, in one step, when all of it has reached the disk."""
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
