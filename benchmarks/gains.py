"""How well the plan's gains agree with measured ones, over the zoo: `python -m benchmarks.gains [models] [--write]`.

For every row: S R as the plan has it, and the RMS of the output's change for a random unit step of the parameter, from
backward passes of random projections of the output (weights as large as the plan takes them to be). --write puts the
numbers into docs/gains.json.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import platform
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx

from normc.errors import NormcError
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.magnitude import Magnitudes
from normc.passes.analyses.request import Request
from normc.passes.analyses.sensitivity import Sensitivities
from normc.plans.row import Row
from normc.recipe.by_name import recipes
from normc.tools.check.budget import at_budget
from normc.tools.check.probe import averages
from normc.tools.check.subject import Subject, Weights, subject_of
from tests.zoo.models import CASES

PAGE = Path(__file__).parents[1] / "docs" / "gains.json"
MATRICES = ("input", "hidden", "output", "router", "depthwise")
BOUNDS = (1 / 16, 1 / 4, 1 / 2, 2, 4, 16)
PROBES = 4


@dataclass(frozen=True)
class Found:
    """One row: how its gain is known, S R, the measured one (None: not measured), whether it only steers an average."""

    name: str
    role: str
    how: str
    nominal: float | None
    measured: float | None
    steers: bool


def gains_of(name: str) -> list[Found]:
    """All rows of one model of the zoo that learn. NormcError if the model can't be copied or run."""
    torch.manual_seed(0)
    subject = subject_of(CASES[name].build(), CASES[name].inputs(), Request(recipes["modular-dual"].configure()))
    try:
        measured = _measured(subject)
    except (RuntimeError, IndexError) as problem:
        print(f"{name}: nothing measured: {problem}")
        measured = {}
    probed = subject.facts[Magnitudes].probed()
    return [_found(subject, row, measured, probed) for row in subject.plan.rows if row.role != "unused"]


def _found(subject: Subject, row: Row, measured: dict[str, float], probed: set[fx.Node]) -> Found:
    atom, contacts = subject.facts[Sensitivities].of[row.name], subject.facts[Binding].contacts[row.name]
    gained = [subject.facts[Sensitivities].nodes.get(contact.node) for contact in contacts]
    steers = bool(gained) and all(gain is not None and gain.weak for gain in gained)
    if atom.sensitivity is None or atom.magnitude is None:
        return Found(row.name, row.role, "unknown", None, measured.get(row.name), steers)
    how = "probed" if any(contact.node in probed for contact in contacts) else "rules"
    nominal = atom.sensitivity * atom.magnitude * subject.facts[Sensitivities].unit
    return Found(row.name, row.role, how, nominal, measured.get(row.name), steers)


def _measured(subject: Subject) -> dict[str, float]:
    """By parameter: the root mean square, over random unit steps and projections of the output."""
    budget = at_budget(subject, 0)
    leaves = {
        name: tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor
        for name, tensor in budget.of.items()
    }
    averages(subject, budget, 1, 0)  # says what can't be run
    squares = dict.fromkeys(leaves, 0.0)
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        outputs = [out for out in subject.run(Weights(leaves, budget.factors)) if out.requires_grad]
        learning = [name for name, leaf in leaves.items() if leaf.requires_grad]
        for probe in range(PROBES):
            noise = [
                torch.randn(out.shape, generator=generator).to(out) / max(out.numel(), 1) ** 0.5 for out in outputs
            ]
            found = torch.autograd.grad(
                outputs, [leaves[name] for name in learning], noise, retain_graph=probe + 1 < PROBES, allow_unused=True
            )
            for name, grad in zip(learning, found, strict=True):
                squares[name] += 0.0 if grad is None else float(grad.double().square().sum()) / PROBES
    rows = {row.name: row for row in subject.plan.rows}
    return {name: math.sqrt(squares[name]) * _entry(rows[name]) for name in learning}


def _entry(row: Row) -> float:
    """RMS of the entries of a random unit step: a matrix keeps the RMS of random input."""
    return 1 / math.sqrt(max(row.fan_in * row.kernel, 1)) if row.role in MATRICES else 1.0


def summary(rows: list[Found]) -> dict[str, object]:
    """Counts by how a gain is known, and the spread of measured over nominal of those that don't only steer."""
    ratios = sorted(r.measured / r.nominal for r in rows if not r.steers and r.nominal and r.measured)
    counts = {how: sum(row.how == how for row in rows) for how in ("rules", "probed", "unknown")}
    quantiles = {f"{q:g}": ratios[round(q * (len(ratios) - 1))] for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)}
    within = {f"{b:g}": sum(ratio <= b for ratio in ratios) for b in BOUNDS}
    steers = sum(row.steers for row in rows)
    return {"rows": len(rows), **counts, "steer": steers, "compared": len(ratios), "quantiles": quantiles,
            "at most": within}  # fmt: skip


def main(arguments: list[str]) -> None:
    """One line a model with its farthest row, then the summary."""
    warnings.filterwarnings("ignore")
    names = [argument for argument in arguments if argument != "--write"] or sorted(CASES)
    rows: list[Found] = []
    left_out: dict[str, str] = {}
    for name in names:
        try:
            found = _apart(name)
        except (NormcError, RuntimeError, IndexError) as problem:
            left_out[name] = str(problem).splitlines()[0]
            print(f"{name:24} left out: {left_out[name]}", flush=True)
            continue
        rows += found
        print(f"{name:24} {_farthest(found)}", flush=True)
    result = summary(rows) | {"models": len(names) - len(left_out), "left out": left_out}
    print(json.dumps(result, indent=1))
    if "--write" in arguments:
        versions = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.processor()}
        PAGE.write_text(json.dumps(result | {"versions": versions}, indent=1) + "\n")


def _apart(name: str) -> list[Found]:
    """In a process of its own: a graph that ends it costs one model."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(gains_of, name).result()


def _farthest(rows: list[Found]) -> str:
    known = [row for row in rows if row.nominal and row.measured and not row.steers]
    unknown = sum(row.how == "unknown" for row in rows)
    if not known:
        return f"{len(rows)} rows, {unknown} unknown"
    far = max(known, key=lambda row: abs(math.log((row.measured or 1) / (row.nominal or 1))))
    ratio = (far.measured or 1) / (far.nominal or 1)
    return f"{len(rows):4} rows, {unknown} unknown, farthest {far.name}: {ratio:.3g} of {far.nominal:.3g}"


if __name__ == "__main__":
    main(sys.argv[1:])
