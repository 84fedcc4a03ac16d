"""Which chains do the same, so that one function updates the rows of all: graphs compared but for numbers and shapes.

A call that does nothing for some rows (a view as it is, a decay of none) may be missing in their graphs.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import fx

from normc.update.ops import arithmetic, matrices
from normc.update.plain.views import as_matrices, as_parameter
from normc.update.program.program import ROWWISE, Chain, returned

# What makes a call hand on its first argument.
NEUTRAL: dict[Any, dict[str, Any]] = {
    as_matrices: {"view": ()},
    as_parameter: {"view": ()},
    arithmetic.decay: {"ratio": 0.0},
    arithmetic.scale: {"factor": 1.0},
}
Place = tuple[Any, ...]  # of a call that may do nothing: what it is, of which value, and for which others


def arguments(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by the parameters of its op, also a row's own number where that is left to its default."""
    assert callable(node.target)
    signature = inspect.signature(node.target)
    given = signature.bind(*node.args, **node.kwargs).arguments
    own = {name: parameter.default for name, parameter in signature.parameters.items() if name in ROWWISE}
    return {name: given.get(name, own.get(name)) for name in signature.parameters if name in given or name in own}


def plain(chain: Chain) -> Chain:
    """The chain with views of one parameter in place of folds of a stack."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(chain.graph, values))
    for before, node in values.items():
        node.meta = dict(before.meta)
    for node in list(graph.nodes):
        if node.target in (matrices.fold, matrices.unfold):
            view = (*_trimmed(node.kwargs["sizes"], node.kwargs["order"]), node.kwargs["shape"])
            kwargs: dict[str, Any] = {"view": view}
            if node.target is matrices.unfold:
                kwargs["shape"] = (1, *node.kwargs["parameter"])
            node.target, node.kwargs = (as_matrices, as_parameter)[node.target is matrices.unfold], kwargs
    return Chain(chain.rows, graph, chain.group)


def _trimmed(sizes: tuple[int, ...], order: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A view's axes without those of one place."""
    kept = [axis for axis, size in enumerate(sizes) if size != 1]
    return tuple(sizes[axis] for axis in kept), tuple(kept.index(axis) for axis in order if axis in kept)


class Form:
    """What a graph does. Graphs of the same `key` differ in numbers, and in calls that may do nothing.

    `calls` are all others in order, `optional` those calls by their place.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.calls = [node for node in graph.nodes if node.op == "call_function" and node.target not in NEUTRAL]
        self._index = {node: place for place, node in enumerate(self.calls)}
        states = tuple((node.name, _kind(node)) for node in graph.nodes if node.meta.get("kind") == "state")
        ends = tuple(map(self._reference, returned(graph)))
        self.key = (states, tuple(map(self._call, self.calls)), ends)
        self.optional: dict[Place, fx.Node] = {}
        for node in graph.nodes:
            if node.op == "call_function" and node.target in NEUTRAL:
                self.optional[(node.target, self._reference(node), tuple(sorted(map(str, self._readers(node)))))] = node

    def _reference(self, node: fx.Node) -> object:
        """A value, whatever may do nothing between it and its reader."""
        while node.target in NEUTRAL:
            assert isinstance(node.args[0], fx.Node)
            node = node.args[0]
        return self._index.get(node, node.name)

    def _readers(self, node: fx.Node) -> list[object]:
        found: list[object] = []
        for user in node.users:
            found += self._readers(user) if user.target in NEUTRAL else [self._index.get(user, user.op)]
        return found

    def _call(self, node: fx.Node) -> object:
        return node.target, tuple((name, self._shown(value)) for name, value in arguments(node).items())

    def _shown(self, value: Any) -> object:
        """A value, or what a constant is: switches and words are of what a graph does."""
        if isinstance(value, fx.Node):
            return self._reference(value)
        if isinstance(value, list):
            return tuple(map(self._reference, value))
        return repr(value) if isinstance(value, bool | str) or value is None else "constant"

    def holds(self, other: Form) -> bool:
        """Whether a function of this graph does what the other does, with calls that do nothing."""
        return self.key == other.key and self.optional.keys() >= other.optional.keys()

    def value(self, node: fx.Node, name: str, other: Form) -> Any:
        """An argument of a call of this graph, as the other has it."""
        if node in self._index:
            return arguments(other.calls[self._index[node]])[name]
        place = next(place for place, own in self.optional.items() if own is node)
        if place in other.optional:
            return arguments(other.optional[place])[name]
        return NEUTRAL[node.target].get(name)


def _kind(node: fx.Node) -> object:
    """Of a state; the number of axes for one of its own shape."""
    kind = node.meta["state"]
    return kind if kind in ("like", "count", "grad") else kind.count("x")


def together(chains: Sequence[Chain]) -> list[list[Chain]]:
    """Chains by the function that can update them, the one whose graph that function is of first."""
    groups: list[tuple[int, Form, list[Chain]]] = []
    forms = [(chain, Form(chain.graph)) for chain in chains]
    for chain, form in sorted(forms, key=lambda pair: -len(pair[1].optional)):
        for group, first, members in groups:
            if group == chain.group and first.holds(form):
                members.append(chain)
                break
        else:
            groups.append((chain.group, form, [chain]))
    order = {id(chain): place for place, chain in enumerate(chains)}
    groups.sort(key=lambda found: min(order[id(chain)] for chain in found[2]))
    return [members for _, _, members in groups]
