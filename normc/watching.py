"""What is done after every pass, analysis or rewrite: its decisions are printed, and its result is checked.

NORMC_PRINT=role,batch (or "all") prints what those passes decided to stderr. NORMC_CHECK=1 checks every fact and every
program where it was made; the tests run so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from normc.errors import NormcError
from normc.model.facts import Log
from normc.update.program.program import Decision
from normc.update.program.switches import SWITCHABLE


def checking() -> bool:
    """Whether results of passes are checked."""
    return os.environ.get("NORMC_CHECK", "") not in ("", "0")


def to_print(analyses: tuple[str, ...]) -> frozenset[str]:
    """The passes that NORMC_PRINT names, beside those `analyses` the rewrites. NormcError for others."""
    wanted = {name.strip() for name in os.environ.get("NORMC_PRINT", "").split(",") if name.strip()}
    known = (*analyses, *SWITCHABLE)
    if strangers := wanted - {*known, "all"}:
        raise NormcError(
            f"NORMC_PRINT names no pass: {', '.join(sorted(strangers))}", f"known: all, {', '.join(known)}"
        )
    return frozenset(known if "all" in wanted else wanted)


def print_evidence(name: str, log: Log, before: Mapping[str, int], seconds: float) -> None:
    """What an analysis has decided: the evidence that is there beside what was `before`, by parameter."""
    print(f"-- {name} ({seconds * 1e3:.0f} ms)", file=sys.stderr)
    for parameter, found in log.evidence.items():
        for evidence in found[before.get(parameter, 0) :]:
            where = f" ({evidence.source})" if evidence.source else ""
            print(
                f"{parameter}\n  {evidence.fact}  {evidence.claim}   because {evidence.reason}{where}", file=sys.stderr
            )


def print_decision(decision: Decision) -> None:
    """What a rewrite has done."""
    saves = f", saves {decision.saving}" if decision.saving else ""
    print(f"{decision.rule}  {decision.what}   because {decision.why}{saves}", file=sys.stderr)
