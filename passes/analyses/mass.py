"""mass: every parameter's share of feature learning, by Modula's defaults (2405.14813): what lies inside residual
branches shares 5, what comes before them up to 1, what comes after them up to 1; one without branches shares equally.

What is frozen takes no share from what learns, and has its own in wait.

Modula has matrices and tables alone; vectors (biases, gains, tokens) count as a tenth of one here, and the recipe says
what a table counts as: one of positions competes with the tokens that it is added to. What lies before or after the
branches and counts less than a matrix in all shares no more than it counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from normc.errors import NormcError
from normc.model.facts import Facts, Log, analysis
from normc.model.ops.call import Contact
from normc.model.trace.graph import ModelGraph, Parameter
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.flow import Flow
from normc.passes.analyses.request import Request
from normc.passes.analyses.role import Roles
from normc.plans.row import Role
from normc.recipe.recipe import Recipe

MATRICES = ("input", "hidden", "output", "embedding", "router", "depthwise")
GROUPS = {"before": 1.0, "inside": 5.0, "after": 1.0}
VECTOR = 0.1


@dataclass(frozen=True, slots=True)
class Masses:
    """Fractions that sum to one over what learns; 0 for what no gradient reaches. A frozen parameter has what it would
    have if nothing were frozen: together with what learns already, at most two.
    """

    of: Mapping[str, float]


@analysis("mass")
def mass(model: ModelGraph, facts: Facts, log: Log) -> Masses:
    """Group the parameters by depth, share each group's mass inside it, then rescale what the user asked for."""
    reached = [p for p in model.parameters if _role(p, facts) != "unused"]
    tares = {pattern: _tared(pattern, wanted, model, reached, log) for pattern, wanted in facts[Request].tare.items()}
    found = dict.fromkeys((p.name for p in model.parameters), 0.0)
    frozen = [p.name for p in reached if not p.requires_grad]
    if frozen:
        aside = Log()
        everything = _shared(reached, facts, tares, aside)
        found |= {name: everything[name] for name in frozen}
        log.evidence |= {name: [*log.evidence.get(name, ()), *aside.evidence.get(name, ())] for name in frozen}
    return Masses(found | _shared([p for p in reached if p.requires_grad], facts, tares, log))


def _shared(
    learning: Sequence[Parameter], facts: Facts, tares: Mapping[str, Collection[str]], log: Log
) -> dict[str, float]:
    """The masses of these parameters, if they are the ones that learn. `tares` are the names that each glob matches."""
    request, flow = facts[Request], facts[Flow]
    groups: dict[str, list[tuple[str, float]]] = {}
    for parameter in learning:
        weight, own = _weight(_role(parameter, facts), request.recipe), facts.about(parameter.name)
        for group in sorted({_group(c, own[Flow]) for c in own[Binding].contacts[parameter.name]}):
            groups.setdefault(group, []).append((parameter.name, weight))
    shares = {parameter.name: 0.0 for parameter in learning}
    for group, members in groups.items():
        total = sum(weight for _, weight in members)
        given = request.recipe.mass_of("blocks", GROUPS[group]) if group == "inside" else min(GROUPS[group], total)
        for name, weight in members:
            shares[name] += given * weight / total if total else 0.0
            where = f"{group} the residual branches" if flow.joins else "no residual branches"
            log.because(name, "mass", f"{weight:g} of {total:g}", f"{where}, which share {given:g}")
    for pattern, names in tares.items():
        _tare(shares, [name for name in names if name in shares], pattern, request.tare[pattern], log)
    total = sum(shares.values())
    if not total and learning:
        raise NormcError("every parameter has mass 0: nothing would learn", "leave some mass to one of them")
    found = {name: share / total if total else 0.0 for name, share in shares.items()}
    for name, share in found.items():
        if share:
            log.because(name, "mass", f"{share:.6g}", f"{shares[name]:.6g} of {total:.6g} in all")
    return found


def _role(parameter: Parameter, facts: Facts) -> Role:
    return facts.about(parameter.name)[Roles].of[parameter.name]


def _weight(role: Role, recipe: Recipe) -> float:
    """What a parameter of that role counts as among those of its group."""
    if role in ("position", "embedding"):
        return recipe.mass_of(role, 1.0)
    return 1.0 if role in MATRICES else recipe.mass_of("vector", VECTOR)


def _tared(pattern: str, wanted: float, model: ModelGraph, reached: Sequence[Parameter], log: Log) -> Collection[str]:
    """The names that a glob matches. NormcError if it matches nothing."""
    names = {p.name for p in model.parameters if any(fnmatchcase(name, pattern) for name in (p.name, *p.aliases))}
    if not names:
        raise NormcError(f"no parameter is called {pattern!r}", "see the plan's table for the names")
    if not names & {p.name for p in reached}:
        log.notes.append(f"the mass {wanted:g} of {pattern!r} goes to nobody: no gradient reaches what it matches")
    return names


def _tare(shares: dict[str, float], names: Sequence[str], pattern: str, wanted: float, log: Log) -> None:
    """Scale the masses of all that match so that they sum to `wanted` (Modula's tare); 0 freezes."""
    before = sum(shares[name] for name in names)
    if names and not before:
        raise NormcError(f"no mass is left to scale in {pattern!r}", "see the plan's table for the names")
    for name in names:
        shares[name] *= wanted / before
        log.because(name, "mass", f"{shares[name]:.6g}", f"{pattern!r} was given {wanted:g} in all")


def _group(contact: Contact, flow: Flow) -> str:
    if not flow.joins:
        return "inside"
    at = flow.place[contact.node]
    if at <= flow.place[flow.joins[0].stream]:
        return "before"
    return "after" if at > flow.place[flow.joins[-1].node] else "inside"
