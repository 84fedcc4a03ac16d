"""From a model's graph to its plan: the analysis passes in their order, and the one place that prints them."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from dataclasses import replace

from normc.errors import NormcError
from normc.facts import Facts, Log, analyses
from normc.passes.geometry import Rows
from normc.passes.request import Request
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.resize.origin import Traced
from normc.trace.graph import ModelGraph
from normc.update.switches import SWITCHABLE

ORDER = ("bind", "flow", "depth", "layout", "blocks", "role", "sanity", "magnitude", "mass", "sensitivity", "geometry")


def analyse(model: ModelGraph, request: Request) -> NormPlan:
    """The plan of a traced model, as requested.

    NORMC_PRINT=role (a comma-separated list of passes, or "all") prints what those passes decided to stderr; rewrites
    of the update print when it is generated. NormcError if it names a pass that there isn't.
    """
    log = Log()
    return plan_of(model, request, facts_of(model, request, log), log)


def facts_of(model: ModelGraph, request: Request, log: Log) -> Facts:
    """What all passes find, in their order; their reasons go to `log`. NormcError as `analyse`."""
    facts = Facts().plus(request)
    wanted = to_print()
    for name in ORDER:
        before = {parameter: len(found) for parameter, found in log.evidence.items()}
        start = time.perf_counter()
        facts = facts.plus(analyses[name](model, facts, log))
        if wanted & {name, "all"}:
            _print(name, log, before, time.perf_counter() - start)
    return facts


def to_print() -> set[str]:
    """The passes and rewrites that NORMC_PRINT names. NormcError for others."""
    wanted = {name.strip() for name in os.environ.get("NORMC_PRINT", "").split(",") if name.strip()}
    known = (*ORDER, *SWITCHABLE)
    if strangers := wanted - {*known, "all"}:
        raise NormcError(
            f"NORMC_PRINT names no pass: {', '.join(sorted(strangers))}", f"known: all, {', '.join(known)}"
        )
    return wanted


def plan_of(model: ModelGraph, request: Request, facts: Facts, log: Log) -> NormPlan:
    """The plan that the passes' facts make up."""
    rows = tuple(
        replace(facts[Rows].of[parameter.name], evidence=tuple(log.evidence.get(parameter.name, ())))
        for parameter in model.parameters
    )
    notes = (*_guesses(model), *log.notes, *unused_note(rows))
    return NormPlan(
        rows=rows,
        model=model.model,
        recipe=request.recipe.name,
        options=tuple(sorted(facts[Rows].recipe.options.items())),
        notes=notes,
        origin=Traced(model, request, analyse, facts if request.recipe.gains != "average" else None),
    )


def _print(name: str, log: Log, before: dict[str, int], seconds: float) -> None:
    print(f"-- {name} ({seconds * 1e3:.0f} ms)", file=sys.stderr)
    for parameter, found in log.evidence.items():
        for evidence in found[before.get(parameter, 0) :]:
            where = f" ({evidence.source})" if evidence.source else ""
            print(
                f"{parameter}\n  {evidence.fact}  {evidence.claim}   because {evidence.reason}{where}", file=sys.stderr
            )


def _guesses(model: ModelGraph) -> tuple[str, ...]:
    counted = Counter(model.guesses)
    return tuple(f"guessed while tracing: {guess}" + (f" (x{n})" if n > 1 else "") for guess, n in counted.items())


def unused_note(rows: tuple[Row, ...]) -> tuple[str, ...]:
    """What is to be said of rows that no gradient reaches: one note, or none."""
    unused = [row for row in rows if row.role == "unused"]
    if not unused:
        return ()
    size = sum(row.numel for row in unused)
    return (
        f"no gradient reaches {len(unused)} parameters ({size:,} entries); an example that uses them may change that",
    )
