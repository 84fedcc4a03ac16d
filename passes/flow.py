"""flow: where values go. Which nodes a gradient reaches, which lead to another weight or to the output, and which
additions join a residual branch to its stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import networkx as nx
import torch
from torch import fx

from normc.facts import Facts, Log, analysis
from normc.ops.call import MATRIX
from normc.ops.value import Value
from normc.passes.bind import Binding
from normc.trace.graph import ModelGraph, op_name

NO_GRADIENT = {"aten.detach", "aten.argmax", "aten.argmin", "aten.argsort", "aten.zeros_like", "aten.ones_like",
                "aten.empty_like", "aten.full_like", "aten.rand_like", "aten.randn_like", "aten.new_zeros",
                "aten.new_ones", "aten.new_full", "aten.new_empty", "aten.bernoulli", "aten.one_hot"}  # fmt: skip


class Join(NamedTuple):
    """`node` adds the end of a branch to the `stream` that the branch started from."""

    node: fx.Node
    stream: fx.Node
    branch: fx.Node


@dataclass(frozen=True, slots=True)
class Flow:
    """Sets of nodes, and the residual joins in graph order; `place` numbers the nodes."""

    graded: frozenset[fx.Node]
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
                if user not in seen and user.op != "output":
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
    products = {c.node for found in binding.contacts.values() for c in found if c.kind in MATRIX}
    weighted: set[fx.Node] = set()
    for node in reversed(list(model.graph.nodes)):
        if any(user in products or user in weighted for user in node.users):
            weighted.add(node)
    returned = frozenset(nx.ancestors(web, output)) if output in web else frozenset()
    graded = _graded(web, output)
    return Flow(graded, frozenset(weighted), returned, _joins(model, binding, products, place), place)


def _graded(web: nx.DiGraph, output: fx.Node) -> frozenset[fx.Node]:
    """Every node that the gradient of some floating-point output reaches."""
    seen: set[fx.Node] = set()
    waiting = [node for node in output.all_input_nodes if _differentiable(node)]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "call_function" and not node.meta.get("grad", True):
            continue
        if node.op == "call_function" and op_name(node) not in NO_GRADIENT:
            waiting += [source for source in web.predecessors(node) if _differentiable(source)]
    return frozenset(seen)


def _differentiable(node: fx.Node) -> bool:
    if node.op == "call_function" and not node.meta.get("grad", True):
        return False
    val = node.meta.get("val")
    items = val if isinstance(val, (tuple, list)) else (val,)
    return any(isinstance(v, torch.Tensor) and (v.dtype.is_floating_point or v.dtype.is_complex) for v in items)


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
            if _branches(stream, branch, products, place):
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
