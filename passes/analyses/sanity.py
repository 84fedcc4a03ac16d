"""sanity: rows that can't be right, whatever the reason, become fallbacks that say so.

Every pass before this one may have lost an axis that it had no rule for. What a role means is known: a matrix has
fan-in and fan-out, and an axis with more than one entry does something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from normc.model.facts import Facts, Log, analysis
from normc.model.ops.call import MATRIX
from normc.model.trace.graph import ModelGraph, Parameter
from normc.passes.analyses.layout import Layout, Layouts
from normc.passes.analyses.role import Roles
from normc.plans.row import Role

MATRICES: tuple[Role, ...] = ("input", "hidden", "output", "router")


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """Why a parameter gets a safe update in place of an inferred one, by its name."""

    of: Mapping[str, str]


@analysis("sanity")
def sanity(model: ModelGraph, facts: Facts, log: Log) -> Fallbacks:
    """What the passes before have admitted, and what they should have."""
    found = dict(facts[Roles].fallbacks)
    for parameter in model.parameters:
        name = parameter.name
        role, layout = facts[Roles].of[name], facts[Layouts].of[name]
        if role == "unused" or name in found or layout.principal is None:
            continue
        if problem := _problem(parameter, role, layout):
            node = layout.principal.node
            found[name] = f"{problem} at {model.describe(node)}"
            log.because(name, "role", "fallback", problem, node)
    return Fallbacks(found)


def _problem(parameter: Parameter, role: Role, layout: Layout) -> str:
    """The rule that a row breaks; "" if it breaks none."""
    idle = [
        i for i, (size, use) in enumerate(zip(parameter.shape, layout.axes, strict=True)) if size > 1 and use == "none"
    ]
    if idle:
        return f"it is not known what axis {idle[0]} does"
    if role not in MATRICES or layout.principal is None or layout.principal.kind not in MATRIX:
        return ""
    alone = sum(size > 1 for size in parameter.shape) == 1
    for uses, word in (({"in", "kernel"}, "fan-in"), ({"out"}, "fan-out")):
        if uses.isdisjoint(layout.axes) and not alone and not _is_vector(layout):
            return f"it is a matrix without {word}"
    return ""


def _is_vector(layout: Layout) -> bool:
    """Whether the op takes a vector of a stack of them, and sums over it: its fan-out is 1."""
    return "block" in layout.axes and "in" in layout.axes
