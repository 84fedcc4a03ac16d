"""sharpness: bounds on the model's second derivatives in its modular norm, one walk forward (THEORY A5).

No pass of its own: it is asked for when a plan's sharpness is, since the targets that make up the modular norm are the
plan's, overridden or not. The recursion is in normc/model/gains/curvature.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import fx

from normc.model.facts import Facts
from normc.model.gains.bends import straight
from normc.model.gains.curvature import Bound, curvature_of, meeting, through
from normc.model.gains.local import At, floats
from normc.model.gains.weights import is_weight, weight_factor
from normc.model.ops.call import MATRIX, Contact
from normc.model.trace.graph import ModelGraph
from normc.model.trace.reach import ends_gradient
from normc.nodes import op_name
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.magnitude import Magnitudes
from normc.passes.analyses.sensitivity import counts
from normc.plans.sharpness import Sharpness, unknown

_MOST = 1e100
AVERAGES = "average gains bound nothing: ask for the option gains=sharp"


class Missing(NamedTuple):
    """Why nothing is known behind an op, and the number of that op in the graph."""

    place: int
    why: str


def sharpness(model: ModelGraph, facts: Facts, targets: Mapping[str, float]) -> Sharpness:
    """Of the whole model, by each parameter's norm of a step of lr 1; or the first op on the way without a bound."""
    if not facts[Magnitudes].model.nominal:
        return unknown(AVERAGES)
    walk = _Walk(facts, targets)
    for place, node in enumerate(model.graph.nodes):
        if node.op == "output":
            return _told([walk.found[source] for source in node.all_input_nodes if counts(source, node)])
        walk.found[node] = walk.of(place, node)
    return unknown("the graph has no output")


def _told(outputs: list[Bound | Missing]) -> Sharpness:
    """Outputs together have the sum of their norms."""
    missing = [output for output in outputs if isinstance(output, Missing)]
    if missing:
        return unknown(min(missing).why)
    found = through([(1.0, output) for output in outputs if isinstance(output, Bound)], ())
    if not max(found) < _MOST:
        return unknown("it grows without bound")
    return Sharpness(found.alpha, found.beta, found.gamma)


class _Walk:
    """Bounds of every node so far."""

    def __init__(self, facts: Facts, targets: Mapping[str, float]) -> None:
        self.found: dict[fx.Node, Bound | Missing] = {}
        self._targets, self._magnitudes, self._values = targets, facts[Magnitudes], facts[Binding].values
        self._products = {c.node for found in facts[Binding].contacts.values() for c in found if c.kind in MATRIX}
        self._contacts: dict[fx.Node, list[Contact]] = {}
        for name, found in facts[Binding].contacts.items():
            for contact in found if targets.get(name) else ():
                self._contacts.setdefault(contact.node, []).append(contact)

    def of(self, place: int, node: fx.Node) -> Bound | Missing:
        """From those of the operands: of an input that is a number of its own, 1."""
        if node.op == "placeholder":
            return Bound(inputs=1.0) if "input" in node.meta and floats(node) else Bound()
        contacts = self._contacts.get(node, [])
        if node.op != "call_function" or ends_gradient(node) or not floats(node):
            return Bound()
        operands = {source: self.found[source] for source in node.all_input_nodes}
        missing = [bound for bound in operands.values() if isinstance(bound, Missing)]
        if missing:
            return min(missing)
        bounds = {source: bound for source, bound in operands.items() if isinstance(bound, Bound) and not bound.still}
        if not bounds and not contacts:
            return Bound()
        try:
            return self._through(node, bounds, contacts)
        except LookupError as problem:
            where = f" ({source})" if (source := node.meta.get("source", "")) else ""
            return Missing(place, f"{problem.args[0]}{where}")

    def _through(self, node: fx.Node, bounds: Mapping[fx.Node, Bound], contacts: list[Contact]) -> Bound:
        name, rule, local = op_name(node), curvature_of(node), self._magnitudes.locals.get(node)
        if local is None:
            if is_weight(self._values.get(node)):
                raise LookupError(f"{name} makes a weight of several")
            raise LookupError(self._magnitudes.unknown.get(node, f"no gain rule for {name}"))
        if rule is None:
            raise LookupError(f"no second-order rule for {name}")
        model = self._magnitudes.model
        at = At(node, model, self._magnitudes.sizes, self._values, node in self._products)
        try:
            bends = [bend for bend in rule(at, local) if bend.first in bounds and bend.second in bounds]
        except LookupError as problem:
            raise LookupError(f"{name}: {problem.args[0]}") from None
        gains = [(use, bounds[use.operand]) for use in local.back if use.operand in bounds]
        own = through(
            [(use.gain, bound) for use, bound in gains],
            [(bend.bound, bounds[bend.first], bounds[bend.second]) for bend in bends],
        )
        parts = [own]
        for contact in contacts:
            if bends and contact.kind in MATRIX:
                raise LookupError(f"no second-order rule for {contact.parameter} in {name}")
            met = through([(use.gain, bound) for use, bound in gains if contact.data in (None, use.operand)], ())
            parts.append(self._added(contact, met, rule is straight))
        return through([(1.0, part) for part in parts], ())

    def _added(self, contact: Contact, met: Bound, linear: bool) -> Bound:
        """What a parameter adds where it meets an activation, beside what that activation brings."""
        self._check_way(contact)
        step = self._targets[contact.parameter] * weight_factor(contact.node, contact.parameter, self._values)
        if contact.kind in ("lookup", "shift", "join") or (contact.kind == "operand" and linear):
            return Bound(weights=step)
        if contact.kind in (*MATRIX, "gain"):
            return meeting(met, step)
        raise LookupError(f"no second-order rule for {contact.parameter} in {op_name(contact.node)}")

    def _check_way(self, contact: Contact) -> None:
        """LookupError if a parameter is bent, or multiplied by another one, before it meets an activation."""
        waiting = [node for node in contact.node.all_input_nodes if is_weight(self._values.get(node))]
        while waiting:
            node = waiting.pop()
            if node.op != "call_function":
                continue
            weights = [source for source in node.all_input_nodes if is_weight(self._values.get(source))]
            scaled = op_name(node).rstrip("_") in ("aten.mul", "aten.div") and len(weights) == 1
            divided = op_name(node).startswith("aten.div") and node.args[0] is not weights[0]
            if (curvature_of(node) is not straight and not scaled) or divided:
                raise LookupError(f"no second-order rule for {op_name(node)} of a weight")
            waiting += weights
