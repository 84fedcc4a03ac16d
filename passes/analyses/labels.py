"""Names of the parts of an output: q, k and v where attention says so, gate and up where a product of the two does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from normc.nodes import op_name
from normc.passes.analyses.alike import Place, joins, moves

_PRODUCTS = ("aten.matmul", "aten.bmm", "aten.baddbmm", "aten.einsum")
_ENDS = ("aten.matmul", "aten.bmm", "aten.linear")


def labels(reached: Sequence[Collection[Place]]) -> list[str]:
    """A label for each part by the places that it reaches; a number where they say nothing, or not one thing."""
    found = []
    for number, places in enumerate(reached):
        names = {_name(place) for place in places} - {""}
        names = names & {"q", "k", "v"} or names  # what becomes of values behind their attention names no part
        found.append(names.pop() if len(names) == 1 else f"part {number}")
    return [f"{label} {found[:i].count(label)}" if found.count(label) > 1 else label for i, label in enumerate(found)]


def _name(place: Place) -> str:
    node, slot = place
    op = op_name(node)
    if "scaled_dot_product" in op:
        return ("q", "k", "v")[slot] if slot < 3 else ""
    if op in _PRODUCTS:
        if slot in (0, 1) and _comes_from_softmax(node, 1 - slot):
            return "v"
        return ("q", "k")[slot] if slot in (0, 1) and _goes_to_softmax(node) else ""
    if op in ("aten.mul", "aten.mul_") and len(node.all_input_nodes) == 2:
        own = node.all_input_nodes[slot] if slot < 2 else node
        return "gate" if _is_activation(own) else "up" if _is_activation(node.all_input_nodes[1 - slot]) else ""
    if op == "aten.glu":
        return "gate" if slot == 1 else "up"
    return _behind(node) if joins(node) and node.op == "call_function" else ""


def _behind(node: fx.Node, most: int = 16) -> str:
    """The name of what a part was put beside others to make, as keys with those of a cache."""
    waiting, names = [node], set[str]()
    for at in waiting:
        for user in at.users:
            if moves(user):
                waiting += [user] if len(waiting) < most else []
            elif not joins(user) and user.op == "call_function":
                names.add(_name((user, user.all_input_nodes.index(at))))
    return names.pop() if len(names) == 1 else ""


def _is_activation(node: fx.Node) -> bool:
    return op_name(node).rstrip("_") in ("aten.silu", "aten.gelu", "aten.sigmoid", "aten.relu", "aten.tanh")


def _goes_to_softmax(node: fx.Node, hops: int = 12) -> bool:
    waiting = list(node.users)
    while waiting and hops:
        at = waiting.pop(0)
        hops -= 1
        if "softmax" in op_name(at):
            return True
        if op_name(at) not in _ENDS:
            waiting += list(at.users)
    return False


def _comes_from_softmax(node: fx.Node, slot: int, hops: int = 8) -> bool:
    waiting = node.all_input_nodes[slot : slot + 1]
    while waiting and hops:
        at = waiting.pop(0)
        hops -= 1
        if "softmax" in op_name(at):
            return True
        if op_name(at) not in _ENDS:
            waiting += at.all_input_nodes
    return False
