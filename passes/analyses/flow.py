"""flow: where values go. Which nodes a gradient reaches, which lead to another weight or to the output, and which
additions join a residual branch to its stream.

A forward may differentiate (a force is an energy's gradient). What autograd runs there meets every weight again, the
other way round: the order of the layers is that of the function, and its derivative counts as computed from its result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import networkx as nx
from torch import fx

from normc.model.facts import Facts, Log, analysis
from normc.model.ops.call import MATRIX, Contact, rule_for
from normc.model.ops.value import Value
from normc.model.trace.graph import ModelGraph
from normc.model.trace.reach import NO_GRADIENT, differentiable, ends_gradient, graded, graded_through, in_backward
from normc.nodes import op_name
from normc.passes.analyses.bind import Binding

# Files of the rules of ops that mix no features: a weight that is lost there is no layer.
_NO_LAYERS = ("elementwise", "joining", "lookup", "reduction", "views")


class Join(NamedTuple):
    """`node` adds the end of a branch to the `stream` that the branch started from."""

    node: fx.Node
    stream: fx.Node
    branch: fx.Node


@dataclass(frozen=True, slots=True)
class Flow:
    """Sets of nodes, and the residual joins in graph order; `place` numbers the nodes.

    graded     a gradient reaches them
    taught     so it does if a gradient also goes from every derivative to the result that was differentiated
    weighted   a gradient comes back to them from another weight's product
    returned   the output is made of them
    """

    graded: frozenset[fx.Node]
    taught: frozenset[fx.Node]
    weighted: frozenset[fx.Node]
    returned: frozenset[fx.Node]
    joins: tuple[Join, ...]
    place: Mapping[fx.Node, int]

    def last(self, node: fx.Node) -> bool:
        """Whether the result reaches the output with no other weight and no residual join after it."""
        return node in self.returned and node not in self.weighted and not self.joined(node)

    def joined(self, node: fx.Node) -> bool:
        """Whether what comes out of `node` is, before any other weight, added to a stream that it branched from."""
        waiting, seen = [node], {node}
        branches = {join.branch: join for join in self.joins}
        while waiting:
            at = waiting.pop()
            if at in branches:
                return True
            for user in at.users:
                if user not in seen and user in self.taught and not ends_gradient(user):
                    seen.add(user)
                    waiting.append(user)
        return False


@analysis("flow")
def flow(model: ModelGraph, facts: Facts, log: Log) -> Flow:
    """One walk back from the output, and one over the additions."""
    binding = facts[Binding]
    place = {node: i for i, node in enumerate(model.graph.nodes)}
    web = nx.DiGraph((source, node) for node in model.graph.nodes for source in node.all_input_nodes)
    output = next(node for node in model.graph.nodes if node.op == "output")
    reached = graded(output)
    taught = reached
    if steps := _differentiations(model):
        web.add_edges_from(steps)
        taught = graded_through(output, web.predecessors)
    products = {c.node for found in binding.contacts.values() for c in found if _weighs(c)}
    weighted: set[fx.Node] = set()
    for node in reversed(list(model.graph.nodes)):
        after = (
            (user for user in web.successors(node) if user in taught and not ends_gradient(user)) if node in web else ()
        )
        if any(user in products or user in weighted for user in after):
            weighted.add(node)
    returned = frozenset(nx.ancestors(web, output)) if output in web else frozenset()
    return Flow(reached, taught, frozenset(weighted), returned, _joins(model, binding, products, place), place)


def _weighs(contact: Contact) -> bool:
    """Whether a contact is a layer to those before it. An op without a rule may well be one."""
    if in_backward(contact.node) or contact.node.op == "output":
        return False
    rule = rule_for(contact.node)
    mixes = rule is None or rule.__module__.rsplit(".", 1)[-1] not in _NO_LAYERS
    return contact.kind in MATRIX or (contact.kind == "unknown" and mixes)


def _differentiations(model: ModelGraph) -> list[tuple[fx.Node, fx.Node]]:
    """From every result that no op but a derivative goes on from, to where autograd's ops after it start.

    Which result a derivative is of isn't recorded, so all before it count: one leads to the next, and the last to it.
    """
    if not any(in_backward(node) for node in model.graph.nodes):
        return []
    steps: list[tuple[fx.Node, fx.Node]] = []
    last: fx.Node | None = None
    for node in model.graph.nodes:
        starts = in_backward(node) and not any(in_backward(source) for source in node.all_input_nodes)
        ends = node.op == "call_function" and differentiable(node) and _goes_nowhere(node)
        if last is not None and (starts or (ends and not in_backward(node))):
            steps.append((last, node))
        if ends and not in_backward(node):
            last = node
    return steps


def _goes_nowhere(node: fx.Node) -> bool:
    return all(ends_gradient(user) for user in node.users) and not ends_gradient(node)


def _joins(
    model: ModelGraph, binding: Binding, products: set[fx.Node], place: Mapping[fx.Node, int]
) -> tuple[Join, ...]:
    found = []
    for node in model.graph.nodes:
        if op_name(node).rstrip("_") != "aten.add" or len(node.all_input_nodes) != 2:
            continue
        values = [binding.values.get(source) for source in node.all_input_nodes]
        if not all(isinstance(value, Value) and value.kind == "data" and value.touched for value in values):
            continue
        first, second = sorted(node.all_input_nodes, key=lambda source: place[source])
        for end, branch in ((first, second), (second, first)):
            stream = _unscaled(end)
            if not ends_gradient(stream) and _branches(stream, branch, products, place):
                found.append(Join(node, stream, branch))
                break
    return tuple(found)


def _unscaled(node: fx.Node) -> fx.Node:
    """What a multiple by plain numbers is a multiple of."""
    while op_name(node).rstrip("_") in ("aten.mul", "aten.div", "aten.neg"):
        if len([argument for argument in node.args if isinstance(argument, fx.Node)]) != 1:
            break
        (node,) = node.all_input_nodes
    return node


def _branches(stream: fx.Node, branch: fx.Node, products: set[fx.Node], place: Mapping[fx.Node, int]) -> bool:
    """Whether a path leads from the stream through a weight's product to the branch's end."""
    first = place[stream]
    waiting, seen = [(branch, branch in products)], set()
    while waiting:
        node, passed = waiting.pop()
        for source in node.all_input_nodes:
            if source is stream:
                if passed:
                    return True
                continue
            step = (source, passed or source in products)
            if place[source] > first and step not in seen and op_name(source) not in NO_GRADIENT - {"aten.detach"}:
                seen.add(step)
                waiting.append(step)
    return False
