"""sensitivity: how much the output moves for a unit move at each parameter, by a sum over all uses (THEORY A'1).

S(output) = 1 / unit, and S(u)^p is the sum over the uses of u of (local gain * S(result))^p. p = 1 is Modula's bound
(2405.14813), p = 2 takes different paths as independent. A path that only steers an average (a query through its
softmax) counts where no other leads to the output: attention starts out close to uniform, and so it hardly adds. The
bound has no such exception.

The unit is 1, or the output's own RMS where the sizes tracked fall below 1 on the way to it: a deep stack of relus
loses 1 / sqrt(2) a layer, and targets that would move its output by 1 all the same would grow by as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import fx

from normc.model.facts import Facts, Log, analysis
from normc.model.gains.joint import Changes, Joint, length, stretch, together
from normc.model.gains.local import UNIT, floats
from normc.model.gains.weights import is_weight, uses_of, weight_factor
from normc.model.ops.call import Contact
from normc.model.trace.graph import ModelGraph
from normc.model.trace.reach import ends_gradient
from normc.nodes import op_name
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.flow import Flow
from normc.passes.analyses.magnitude import Magnitudes

_MOST = 1e100  # squares of larger gains leave the range of floats


class Gained(NamedTuple):
    """A node's gain to the output; `weak` if only steering paths lead there."""

    gain: float
    weak: bool = False


class Atom(NamedTuple):
    """A parameter's sensitivity and the RMS of what it multiplies; None where an op on the way has no gain."""

    sensitivity: float | None
    magnitude: float | None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """By parameter, and by node (None: unknown, for the reason in `unknown`)."""

    of: Mapping[str, Atom]
    nodes: Mapping[fx.Node, Gained | None]
    unit: float = 1.0


@analysis("sensitivity")
def sensitivity(model: ModelGraph, facts: Facts, log: Log) -> Sensitivities:
    """One walk back, then one number for each parameter: the p-sum over the places where it is used."""
    magnitudes, binding = facts[Magnitudes], facts[Binding]
    nodes: dict[fx.Node, Gained | None] = {}
    causes: dict[fx.Node, str] = {}
    unit = _unit(model, magnitudes)
    joint = stretch(magnitudes.samples, {n: local for n, local in magnitudes.locals.items() if local.joint})
    for node in reversed(list(model.graph.nodes)):
        nodes[node] = _gained(node, nodes, causes, magnitudes, facts[Flow], joint, unit)
    atoms = {}
    for parameter in model.parameters:
        atoms[parameter.name] = atom = _atom(
            binding.contacts[parameter.name], nodes, causes, binding.values, magnitudes
        )
        if atom.sensitivity is not None and atom.magnitude is not None:
            claim = f"S {atom.sensitivity:.6g}, input RMS {atom.magnitude:.6g}"
            log.because(parameter.name, "sensitivity", claim, f"{magnitudes.model.convention} gains")
        elif atom.unknown:
            log.because(parameter.name, "sensitivity", "unknown", atom.unknown)
    if log.gains_probed:
        ops = ", ".join(sorted(log.gains_probed))
        log.notes.append(f"no gain rule, tried out on Gaussian operands instead: {ops}")
    return Sensitivities(atoms, nodes, unit)


def _gained(
    node: fx.Node,
    nodes: Mapping[fx.Node, Gained | None],
    causes: dict[fx.Node, str],
    magnitudes: Magnitudes,
    flow: Flow,
    joint: Joint | None,
    unit: float,
) -> Gained | None:
    p = magnitudes.model.p
    strong = weak = 0.0
    reached_by: list[Changes] = []
    for user in node.users:
        if user.op == "output":
            strong += counts(node, user) / unit**p
            continue
        after = nodes[user]
        if after == Gained(0.0) or ends_gradient(user) or user not in flow.graded:
            continue
        local = magnitudes.locals.get(user)
        if after is None or (local is None and user in magnitudes.unknown):
            causes[node] = causes.get(user) or magnitudes.unknown.get(user, op_name(user))
            return None
        if joint is not None and (changes := joint.reach(node, user)) is not None:
            reached_by.append(changes)
            continue
        for use in local.back if local is not None else ():
            if use.operand is node:
                reached = use.gain * after.gain
                if not reached <= _MOST:
                    causes[node] = magnitudes.unknown.get(node) or f"it grows without bound before {op_name(user)}"
                    return None
                share = reached**p
                if (use.weak or after.weak) and not magnitudes.model.nominal:
                    weak += share
                else:
                    strong += share
    if joint is not None and node in joint:
        strong = joint.through(node, reached_by, (strong or weak) ** (1 / p)) ** p
    elif reached_by:
        strong += length(together(reached_by)) ** p
    return Gained(strong ** (1 / p)) if strong or not weak else Gained(weak ** (1 / p), weak=True)


def _unit(model: ModelGraph, magnitudes: Magnitudes) -> float:
    """The output's RMS if it is known and below 1. Of several outputs, the largest; probabilities are as they are."""
    output = next(node for node in model.graph.nodes if node.op == "output")
    if magnitudes.model.nominal:
        return 1.0
    sizes = [magnitudes.sizes.get(node) or UNIT for node in output.all_input_nodes if counts(node, output)]
    largest = max((1.0 if size.simplex else size.rms for size in sizes), default=1.0)
    return min(largest, 1.0) or 1.0


def counts(node: fx.Node, output: fx.Node) -> bool:
    """Whether a returned tensor is an output: a loss returned beside what it is made of is not a second one."""
    rest = [other for other in output.all_input_nodes if floats(other)]
    numbers = [other for other in rest if math.prod(_shape(other)) == 1]
    return node in rest and (node not in numbers or len(numbers) == len(rest))


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(getattr(node.meta.get("val"), "shape", ()))


def _atom(
    contacts: tuple[Contact, ...],
    nodes: Mapping[fx.Node, Gained | None],
    causes: Mapping[fx.Node, str],
    values: Mapping[fx.Node, object],
    magnitudes: Magnitudes,
) -> Atom:
    p = magnitudes.model.p
    total = widest = 0.0
    for contact in contacts:
        for node, data in _places(contact, values, magnitudes):
            gained, rms = nodes[node], _met(contact, node, data, magnitudes)
            if gained is None or rms is None:
                missing = node if gained is None else data
                return Atom(None, None, causes.get(missing) or magnitudes.unknown.get(missing, "") if missing else "")
            total += (gained.gain * rms * weight_factor(contact.node, contact.parameter, values)) ** p
            widest = max(widest, rms)
    if not widest:
        return Atom(None, None)
    return Atom(total ** (1 / p) / widest, widest)


def _places(
    contact: Contact, values: Mapping[fx.Node, object], magnitudes: Magnitudes
) -> list[tuple[fx.Node, fx.Node | None]]:
    """Where a parameter's effect on activations starts: at its contact, or, of a weight's gain, where that weight is
    used: a change of the weight's size changes the product by as much.
    """
    if contact.kind != "gain" or contact.node in magnitudes.locals or not is_weight(values.get(contact.node)):
        return [(contact.node, contact.data)]
    return [(node, node) for node in uses_of(contact.node, values)]


def _met(contact: Contact, node: fx.Node, data: fx.Node | None, magnitudes: Magnitudes) -> float | None:
    """RMS of what the parameter multiplies: 1 for what is looked up or added; a gain meets what was normalised."""
    if contact.kind in ("lookup", "shift", "join", "operand"):
        return 1.0
    return magnitudes.rms(node if contact.kind == "gain" else data)
