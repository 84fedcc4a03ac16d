"""One architecture: built, planned, judged; and if it can't be planned, whether it runs at all."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import _pytree as pytree

import normc
from benchmarks.sweep import hugging, timms
from benchmarks.sweep.candidate import Candidate
from benchmarks.sweep.gradients import Call, reached
from benchmarks.sweep.oracle import judge
from normc.model.trace.own_inputs import own_inputs
from normc.model.weightless import without_weights
from normc.plans.plan import NormPlan

LIBRARIES = {"transformers": hugging, "timm": timms}
_REAL = 300_000_000  # entries up to which a model is run with weights if its plan fails
_CHEAP = 20_000_000  # entries up to which a planned model is run with weights, forward and backward
Outcome = dict[str, Any]


def measure(library: str, name: str) -> Outcome:
    """What came of one architecture, as plain data. `status` is planned, failed, or says why there was nothing to plan.

    A configuration that can't be built, or whose model doesn't run on the example inputs, is replaced by the next one.
    """
    first: Outcome = {}
    for candidate in LIBRARIES[library].candidates(name):
        outcome = _try(candidate) | {"size": candidate.size}
        if outcome["status"] == "unsure":
            return first if first.get("status") == "does not run" else outcome | {"status": "failed"}
        if outcome["status"] in ("planned", "failed"):
            return outcome
        worse = ("not built", "no inputs", "does not run")
        if not first or worse.index(outcome["status"]) >= worse.index(first["status"]):
            first = outcome
    return first


def _try(candidate: Candidate) -> Outcome:
    try:
        model = without_weights(candidate.build)
    except Exception as problem:  # noqa: BLE001  # whatever a library's constructor raises is the finding
        return {"status": "not built", "error": line(problem)}
    entries = sum(parameter.numel() for parameter in model.parameters())
    inputs = own_inputs(model)
    if inputs is None:
        return {"status": "no inputs", "error": "it doesn't say what its forward takes", "entries": entries}
    start = time.perf_counter()
    called: set[int] = set()
    try:
        with watching(called):
            plan = normc.plan(model, inputs)
    except Exception as problem:  # noqa: BLE001  # an error that isn't a NormcError is what the sweep looks for
        seconds = time.perf_counter() - start
        runs = _runs(candidate, inputs, entries)
        status = "failed" if runs is None else "does not run" if runs else "unsure"
        return {"status": status, "error": runs or line(problem), "entries": entries, "seconds": seconds,
                "raised": type(problem).__name__}  # fmt: skip
    seconds = time.perf_counter() - start
    truth = _truth(candidate, inputs) if entries <= _CHEAP else None
    told = {"status": "planned", "seconds": seconds, "entries": entries, "held": truth is not None}
    return told | findings(model, plan, called, truth)


def _truth(candidate: Candidate, inputs: Call) -> frozenset[str] | None:
    """The names of the parameters that a real backward reaches; None if the model can't be run with weights."""
    try:
        model = candidate.build().eval()
        found = reached(model, inputs)
    except Exception:  # noqa: BLE001  # whatever the model raises: there is no truth to hold the plan against
        return None
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in found)


@contextmanager
def watching(called: set[int]) -> Iterator[None]:
    """Inside, `called` grows by the id of every module that is called."""
    handle = register_module_forward_pre_hook(lambda module, _: called.add(id(module)))
    try:
        yield
    finally:
        handle.remove()


def findings(model: nn.Module, plan: NormPlan, called: set[int], truth: frozenset[str] | None = None) -> Outcome:
    """What a plan says, counted, and where the judge differs, who believes in `truth` as to what is reached."""
    agreed: Counter[str] = Counter()
    wrong: dict[tuple[str, str, str], list[str]] = {}
    for verdict in judge(model, plan, called, truth):
        if verdict.agrees:
            agreed[verdict.about] += 1
        else:
            wrong.setdefault((verdict.about, verdict.expected, verdict.found), []).append(verdict.row)
    fallbacks: dict[str, list[str]] = {}
    for row in plan.rows:
        if row.fallback is not None:
            fallbacks.setdefault(re.sub(r" \(.*", "", row.fallback), []).append(row.name)
    return {
        "class": type(model).__name__,
        "rows": len(plan.rows),
        "unreached": sum(row.role == "unused" for row in plan.rows),
        "unreached_entries": sum(row.numel for row in plan.rows if row.role == "unused"),
        "roles": dict(Counter(row.role for row in plan.rows)),
        "blocked": sum(bool(row.blocks) for row in plan.rows),
        "fallbacks": {why: [len(rows), rows[0]] for why, rows in fallbacks.items()},
        "guesses": sum(note.startswith("guessed") for note in plan.notes),
        "agreed": dict(agreed),
        "disagreed": [[*key, len(rows), rows[0]] for key, rows in wrong.items()],
    }


def _runs(candidate: Candidate, inputs: Call, entries: int) -> str | None:
    """Why the model doesn't run eagerly on the inputs; None if it does. A large one is run without weights.

    A question about data can't be answered without: then nobody knows, and the answer is empty.
    """
    device = "cpu" if entries <= _REAL else "meta"
    try:
        with torch.device(device), torch.no_grad():
            model = candidate.build().eval()
            args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), inputs)
            model(*args, **kwargs)
    except Exception as problem:  # noqa: BLE001  # whatever the model raises is the finding
        return "" if device == "meta" and "meta tensor" in str(problem) else line(problem)
    return None


def line(problem: Exception) -> str:
    """The error in one line without addresses."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    text = re.sub(r"0x[0-9a-f]+|(/[\w.+-]+)+/(?=[\w.-]+)", "", text)
    return f"{type(problem).__name__}: {text}"[:200]
