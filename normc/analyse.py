"""From a model's graph to its plan: the analysis passes in their order, and the one place that prints them."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from dataclasses import replace

from normc.errors import NormcError
from normc.model.facts import Elsewhere, Facts, Log, analyses
from normc.model.trace.graph import ModelGraph, Path
from normc.passes.analyses.geometry import Rows
from normc.passes.analyses.request import Request
from normc.passes.resize.origin import Traced
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.update.program.switches import SWITCHABLE

# Of a path that is traced for the sake of some parameters, those before `mass` are enough, and what it needs beside.
ELSEWHERE = ("bind", "flow", "depth", "layout", "blocks", "role", "sanity", "magnitude", "sensitivity")
ORDER = ("bind", "flow", "depth", "layout", "blocks", "role", "sanity", "magnitude", "mass", "sensitivity", "geometry")
_BEFORE_MASS = ("layout", "blocks", "role", "sensitivity")  # facts that evidence is about
_SHOWN = 4
MOST_UNREACHED = "most of the model would not learn"  # how the note of that begins


def analyse(model: ModelGraph, request: Request) -> NormPlan:
    """The plan of a traced model, as requested.

    NORMC_PRINT=role (a comma-separated list of passes, or "all") prints what those passes decided to stderr; rewrites
    of the update print when it is generated. NormcError if it names a pass that there isn't.
    """
    log = Log()
    return plan_of(model, request, facts_of(model, request, log), log)


def facts_of(model: ModelGraph, request: Request, log: Log) -> Facts:
    """What all passes find, in their order; their reasons go to `log`. NormcError as `analyse`."""
    others = [(path, Log()) for path in model.others]
    facts = Facts().plus(request)
    elsewhere: dict[str, Facts] = {}
    for path, own in others:
        elsewhere |= dict.fromkeys(path.reads, _passed(ELSEWHERE, path.graph, facts, own))
    found = _passed(ORDER, model, facts.plus(Elsewhere(elsewhere)), log)
    for path, own in others:
        _tell(path, own, log)
    return found


def _passed(names: tuple[str, ...], model: ModelGraph, facts: Facts, log: Log) -> Facts:
    wanted = to_print()
    for name in names:
        before = {parameter: len(found) for parameter, found in log.evidence.items()}
        start = time.perf_counter()
        facts = facts.plus(analyses[name](model, facts, log))
        if wanted & {name, "all"}:
            _print(name, log, before, time.perf_counter() - start)
    return facts


def _tell(path: Path, own: Log, log: Log) -> None:
    """Evidence about what only that path reads is that path's, but for what is shared by all parameters."""
    for name in path.reads:
        shared = [found for found in log.evidence.get(name, ()) if found.fact not in _BEFORE_MASS]
        log.evidence[name] = [*own.evidence.get(name, ()), *shared]
        log.because(name, "path", f"read {path.why}", "the path that reads most doesn't read it")
    count = f"{len(path.reads)} parameters are" if len(path.reads) > 1 else "1 parameter is"
    log.notes.append(f"{count} planned {path.why}: {listed(path.reads)}")


def listed(names: tuple[str, ...]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


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
    notes = (*model.notes, *_guesses(model), *log.notes, *unused_note(rows))
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
    size, whole = sum(row.numel for row in unused), sum(row.numel for row in rows)
    if 2 * size > whole:
        most = f"no gradient reaches {len(unused)} of {len(rows)} parameters, {size:,} of {whole:,} entries"
        return (f"{MOST_UNREACHED}: {most}; see that forward returns what the loss is made of, and reads its inputs",)
    return (
        f"no gradient reaches {len(unused)} parameters ({size:,} entries); an example that uses them may change that",
    )
