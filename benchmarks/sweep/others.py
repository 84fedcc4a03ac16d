"""The models of other libraries: planned in eval and in training mode, held against autograd and against the judge."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import random
import time
from types import ModuleType
from typing import Any

import torch

import normc
from benchmarks.sweep import libraries
from benchmarks.sweep.alone import runs_alone
from benchmarks.sweep.gradients import compared, reached
from benchmarks.sweep.libraries.example import Build, library
from benchmarks.sweep.measure import findings, line, watching
from normc.plans.plan import NormPlan
from normc.plans.row import Row

Outcome = dict[str, Any]


def _files() -> list[str]:
    return [found.name for found in pkgutil.iter_modules(libraries.__path__) if found.name != "example"]


def _file(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.sweep.libraries.{name}")


def versions() -> dict[str, str]:
    """The version of each library that is here, by the name of its file."""
    found = {}
    for name in _files():
        try:
            found[name] = ", ".join(f"{one} {importlib.metadata.version(one)}" for one in _file(name).PACKAGES)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def names(seeds: int = 1) -> list[str]:
    """`file/model#seed` for every model of every library that is here."""
    return [f"{file}/{model}#{seed}" for file in versions() for model in _file(file).MODELS for seed in range(seeds)]


def prepare(name: str) -> str | None:
    """Import what the models of a file need, once for all processes that follow. Why it can't be imported, if so."""
    for module in _file(name).MODULES:
        try:
            library(module)
        except Exception as problem:  # noqa: BLE001  # whatever an import raises is the finding
            return line(problem)
    return None


def measure(name: str) -> Outcome:
    """What came of `file/model#seed`, as plain data. The plan of the training mode is the one that is judged."""
    modes = {mode: _measure(name, mode == "training") for mode in ("eval", "training")}
    worst = next((one for one in modes.values() if one["status"] != "planned"), modes["training"])
    lost = {mode: one["lost"] for mode, one in modes.items() if one.get("lost")}
    return worst | {"lost": lost, "seconds": max(one.get("seconds", 0.0) for one in modes.values()),
                    "evaluated": modes["eval"]["status"], "trained": modes["training"]["status"]}  # fmt: skip


def builder(name: str) -> tuple[Build, str]:
    """The builder of `file/model#seed`, and the seed of its settings."""
    file, _, rest = name.partition("/")
    model, _, seed = rest.partition("#")
    return _file(file).MODELS[model], f"{model}{seed}"


def _measure(name: str, training: bool) -> Outcome:
    build, seed = builder(name)
    torch.manual_seed(0)
    try:
        example = build(random.Random(seed))
    except Exception as problem:  # noqa: BLE001  # whatever a library's constructor raises is the finding
        return {"status": "not built", "error": line(problem)}
    model = example.model.train(training)
    start = time.perf_counter()
    called: set[int] = set()
    outcome: Outcome
    try:
        with watching(called):
            plan = normc.plan(model, (example.args, example.kwargs))
    except Exception as problem:  # noqa: BLE001  # an error that isn't a NormcError is what the sweep looks for
        reason = runs_alone(name, training)
        if reason is not None:
            return {"status": "does not run", "error": reason}
        return {"status": "failed", "error": line(problem), "raised": type(problem).__name__}
    seconds = time.perf_counter() - start
    outcome = {"status": "planned", "seconds": seconds, "entries": sum(p.numel() for p in model.parameters())}
    torch.manual_seed(0)
    try:
        found = reached(model, (example.args, example.kwargs))
    except Exception as problem:  # noqa: BLE001  # a model that runs no longer once it was planned is a finding too
        outcome |= findings(model, plan, called)
        return outcome if runs_alone(name, training) else outcome | {"status": "broken", "error": line(problem)}
    truth = frozenset(name for name, parameter in model.named_parameters() if id(parameter) in found)
    differ = compared(plan, truth)
    outcome |= findings(model, plan, called, truth)
    return outcome | {
        "lost": list(differ.lost),
        "idle": list(differ.idle),
        "far": _far(plan),
        "said": [_said(row) for row in plan.rows],
    }


def _far(plan: NormPlan) -> list[str]:
    """Rows whose target is a thousandth of the middle one of their role or less, or a thousand times as large."""
    roles: dict[str, list[Row]] = {}
    for row in plan.rows:
        if row.target > 0:
            roles.setdefault(row.role, []).append(row)
    found = []
    for rows in roles.values():
        middle = sorted(row.target for row in rows)[len(rows) // 2]
        found += [f"{row.name}: {row.target:.1e}" for row in rows if not 1e-3 < row.target / middle < 1e3]
    return found + [f"{row.name}: {row.target:.1e}" for row in plan.rows if 0 < row.target < 1e-7]


def _said(row: Row) -> str:
    """A row in one line, for a person who reads what was planned."""
    axes = "".join(_letter(row, axis) for axis in range(len(row.shape)))
    blocks = " ".join(("~" if len(block.spans) > 1 else "") + str(block.size) for block in row.blocks)
    return "  ".join(filter(None, (row.name, str(row.shape), row.role, axes, row.norm, blocks, row.fallback)))


def _letter(row: Row, axis: int) -> str:
    kinds = {"o": row.out_axes, "i": row.in_axes, "b": row.block_axes, "k": row.kernel_axes}
    return "".join(letter for letter, axes in kinds.items() if axis in axes) or "-"
