"""Whether places treat what comes to them alike: the same ops with the same operands, side by side, to the same end.

Heads in a Python loop do. Keys and values don't, whatever line of source they share: one meets the queries, the other
what the softmax gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from torch import fx

from normc.model.ops.call import rule_for
from normc.nodes import op_name

Place = tuple[fx.Node, int]

# How many ops are looked at behind a place, and before one of its operands.
_AHEAD, _BACK = 5, 4
_BESIDE = ("aten.cat", "aten.stack", "aten.concat", "aten.concatenate", "aten.hstack", "aten.vstack")
_EITHER_WAY = ("aten.mul", "aten.maximum", "aten.minimum")


class Alike:
    """Compares places of one graph; what it has seen of a node it keeps."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._ahead: dict[tuple[fx.Node, int], frozenset[int]] = {}
        self._back: dict[tuple[fx.Node, int], int] = {}

    def together(self, groups: list[tuple[Place, ...]]) -> list[int]:
        """For every group of places, the first group that is treated alike: itself, if none before it is."""
        if len(groups) > 1024:
            return list(range(len(groups)))
        near = [self._signature(group, 1) for group in groups]
        several = {seen for seen, times in Counter(near).items() if times > 1}
        known: dict[Hashable, list[int]] = {}
        found = []
        for index, group in enumerate(groups):
            same = known.setdefault(self._signature(group, _AHEAD), []) if near[index] in several else []
            found.append(next((other for other in same if _side_by_side(groups[other], group)), index))
            if found[-1] == index:
                same.append(index)
        return found

    def _signature(self, places: tuple[Place, ...], depth: int) -> Hashable:
        return tuple(self._place(node, slot, depth) for node, slot in places)

    def _place(self, node: fx.Node, slot: int, depth: int) -> int:
        if node.op == "output":
            return self._number(("output", slot))
        if _writes(node):
            return self._written(node, depth)
        operands = tuple(self._source(source, min(depth, _BACK)) for source in node.all_input_nodes)
        return self._number((op_name(node), slot, operands, self._uses(node, depth)))

    def _uses(self, node: fx.Node, depth: int) -> frozenset[int]:
        """What becomes of a result. In which place it is added to others or put beside them says nothing."""
        key = node, depth
        if key not in self._ahead:
            self._ahead[key] = frozenset[int]().union(*(self._use(node, user, depth) for user in node.users))
        return self._ahead[key]

    def _use(self, node: fx.Node, user: fx.Node, depth: int) -> frozenset[int]:
        if moves(user):
            return self._uses(user, depth)
        inputs = user.all_input_nodes
        name = op_name(user).rstrip("_")
        slots = () if name in _EITHER_WAY else tuple(i for i, source in enumerate(inputs) if source is node)
        if joins(user):
            return frozenset([self._written(user, depth)])
        if user.op == "output" or depth == 0:
            return frozenset([self._number((name, slots))])
        others = tuple(self._source(other, _BACK) for other in inputs if other is not node)
        return frozenset([self._number((name, slots, others, self._uses(user, depth - 1)))])

    def _written(self, node: fx.Node, depth: int) -> int:
        """What becomes of the last of a row of sums, cats or writes: in which an operand stands says nothing."""
        end = _end(node)
        return self._number(("joined", depth and not _writes(end) and self._uses(end, depth - 1)))

    def _source(self, node: fx.Node, depth: int) -> int:
        """What a tensor is made of: ops back to parameters and inputs, whichever slice of them."""
        while moves(node) and node.all_input_nodes:
            node = node.all_input_nodes[0]
        key = node, depth
        if key not in self._back:
            known: Hashable = node.meta.get("param") or (node.name if "input" in node.meta else "")
            if node.op == "call_function":
                sources = (self._source(source, depth - 1) for source in node.all_input_nodes) if depth else ()
                known = op_name(node).rstrip("_"), tuple(sources)
            self._back[key] = self._number(known)
        return self._back[key]

    def _number(self, seen: Hashable) -> int:
        return self._numbers.setdefault(seen, len(self._numbers))


def kinds(places: tuple[Place, ...]) -> frozenset[tuple[str, int]]:
    """The places' ops, and in which operand of each, where that makes a difference."""
    names = ((op_name(node).rstrip("_"), slot) for node, slot in places)
    return frozenset((name, 0 if name in _EITHER_WAY else slot) for name, slot in names)


def moves(node: fx.Node) -> bool:
    """Whether an op changes no entries, only their places."""
    return _family(node) == "views"


def joins(node: fx.Node) -> bool:
    """Whether an op adds its operands or puts them beside each other: the order says nothing."""
    return _family(node) == "joining" or op_name(node).rstrip("_") == "aten.add"


def filters(node: fx.Node) -> bool:
    """Whether an op is a convolution."""
    return _family(node) == "convolution"


def _writes(node: fx.Node) -> bool:
    return _family(node) == "joining" and op_name(node).rstrip("_") not in _BESIDE


def _end(node: fx.Node) -> fx.Node:
    """The last of a row of sums or cats that lead to each other alone, as a loop makes them."""
    while len(node.users) == 1:
        (user,) = node.users
        if not (joins(user) or moves(user)) or _writes(user):
            return node
        node = user
    return node


def _family(node: fx.Node) -> str:
    """The module of the op's rule."""
    rule = rule_for(node) if node.op == "call_function" else None
    return "" if rule is None else rule.__module__.rsplit(".", 1)[-1]


def _side_by_side(some: tuple[Place, ...], others: tuple[Place, ...]) -> bool:
    """Whether, time after time, neither is computed from the other: a loop over heads, no chain of layers."""
    pairs = [(a, b) for (a, _), (b, _) in zip(some, others, strict=True) if a is not b]
    pairs = [pair for pair in pairs if not all(map(joins, pair))] or pairs  # of a row of sums each leads to the next
    return not any(_leads(a, b) or _leads(b, a) for a, b in pairs)


def _leads(first: fx.Node, second: fx.Node, nodes: int = 256) -> bool:
    """Whether the second node is computed from the first, within a short way."""
    waiting, seen = [first], {first}
    for at in waiting:
        if len(seen) > nodes:
            return False
        for user in at.users:
            if user is second:
                return True
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return False
