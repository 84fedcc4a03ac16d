"""mass: every matrix's share of feature learning, by Modula's defaults (2405.14813): what lies inside residual branches
shares 5, what comes before them 1, what comes after them 1; a network without branches shares equally.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from normc.facts import Facts, Log, analysis
from normc.ops.call import Contact
from normc.passes.bind import Binding
from normc.passes.flow import Flow
from normc.passes.role import Roles
from normc.trace.graph import ModelGraph

ATOMS = ("input", "hidden", "output", "embedding", "position", "router", "depthwise")
_LEARNING = ("contract", "convolve", "lookup", "shift")
GROUP_MASS = {"before": 1.0, "inside": 5.0, "after": 1.0}


@dataclass(frozen=True, slots=True)
class Masses:
    """Fractions that sum to one over the matrices and tables; vectors have none in Modula, and none here."""

    of: Mapping[str, float]


@analysis("mass")
def mass(model: ModelGraph, facts: Facts, log: Log) -> Masses:
    """Group the atoms by depth, and share each group's mass equally inside it."""
    flow = facts[Flow]
    groups: dict[str, list[str]] = {}
    for parameter in model.parameters:
        if facts[Roles].of[parameter.name] in ATOMS:
            for group in sorted(
                {_group(c, flow) for c in facts[Binding].contacts[parameter.name] if c.kind in _LEARNING}
            ):
                groups.setdefault(group, []).append(parameter.name)
    total = sum(GROUP_MASS[group] for group in groups) if flow.joins else 1.0
    count = sum(len(names) for names in groups.values())
    found: dict[str, float] = {}
    for group, names in groups.items():
        for name in names:
            share = GROUP_MASS[group] / total / len(names) if flow.joins else 1.0 / count
            found[name] = found.get(name, 0.0) + share
            among = f"{len(names)} atom{'s' * (len(names) != 1)}"
            where = f"{group} the residual branches, with {among}" if flow.joins else f"{among}, no branches"
            log.because(name, "mass", f"{share:.6g}", where)
    return Masses(found)


def _group(contact: Contact, flow: Flow) -> str:
    if not flow.joins:
        return "inside"
    at = flow.place[contact.node]
    if at <= flow.place[flow.joins[0].stream]:
        return "before"
    return "after" if at > flow.place[flow.joins[-1].node] else "inside"
