"""Places: along which axes an activation has them. Only there is a weight's axis one of positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from normc.model.ops.call import Call, Record, rule_for
from normc.model.ops.value import Axis, Factor, Value, is_feature, parameter_value
from normc.model.trace.graph import shape_of
from normc.nodes import op_name

_COMPARISONS = {"ne", "eq", "gt", "lt", "ge", "le", "new_zeros", "zeros_like"}
_COPIES = {
    "clone", "contiguous", "to", "_to_copy", "alias", "detach", "view", "reshape", "expand", "unsqueeze", "squeeze",
    "flatten", "lift_fresh",
}  # fmt: skip
# Which dimension of its first operand an op contracts, or has the features in: by its name.
_CONTRACTED = {
    **dict.fromkeys(
        ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "layer_norm", "rms_norm", "native_layer_norm"), -1
    ),
    **dict.fromkeys(("batch_norm", "group_norm", "instance_norm", "native_batch_norm", "native_group_norm"), 1),
    **{f"conv{'_transpose' * turned}{n}d": 1 for n in (1, 2, 3) for turned in (0, 1)},
}


def is_position_index(call: Call, node: fx.Node) -> bool:
    """Whether an index from the inputs counts places: a running sum of a mask, comparisons alone, or 0, 1, 2, ..."""
    waiting, seen = [node], set()
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        name = _short(at)
        if name == "cumsum" and call.value(at).kind == "data":
            return True
        if at.op != "placeholder" and name not in _COMPARISONS:
            waiting += at.all_input_nodes
    given = _original(node)
    return given.op == "placeholder" and counts_up(given)


def counts_up(node: fx.Node) -> bool:
    """Whether an input holds 0, 1, 2, ... along an axis of places, and another input says what is at those places.

    A lone axis is one of samples, unless others have it after theirs. Fewer than three entries may be anything.
    """
    concrete = node.meta.get("concrete")
    if concrete is None or concrete.dim() == 0 or concrete.dtype.is_floating_point or concrete.shape[-1] < 3:
        return False
    if not bool((concrete == torch.arange(concrete.shape[-1])).all()):
        return False
    size, whole = concrete.shape[-1], tuple(concrete.shape)
    shapes = [shape_of(n) for n in node.graph.nodes if n.op == "placeholder" and n is not node and _tells(n)]
    if len(whole) == 1:
        return any(shape[1:2] == (size,) and shape[0] != size for shape in shapes)
    return any(shape[: len(whole)] == whole for shape in shapes)


def _tells(node: fx.Node) -> bool:
    """Whether an input holds contents: numbers, or indices of more than two kinds that don't count up too."""
    if "input" not in node.meta:
        return False
    concrete = node.meta.get("concrete")
    if _floats(node) or concrete is None or concrete.dim() == 0:
        return _floats(node) or concrete is None
    steps = concrete[..., 1:] - concrete[..., :-1]
    return int(concrete.unique().numel()) > 2 and not bool((steps == 1).all())


def _floats(node: fx.Node) -> bool:
    val = node.meta.get("val")
    return isinstance(val, Tensor) and val.dtype.is_floating_point


def _original(node: fx.Node) -> fx.Node:
    """What a tensor is a view or a copy of, entry for entry."""
    while _short(node) in _COPIES and len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    return node


def _short(node: fx.Node) -> str:
    return op_name(node).rsplit(".", 1)[-1].rstrip("_")


def picked_alike(call: Call, node: fx.Node, offsets: Mapping[Axis, int], most: int = 48) -> bool:
    """Whether the activation `node` is made of a place that has the number of the weight's entry: step 3 of a sequence.

    Not so if the number chose a matrix on the way: then it numbers layers or experts, and the activation is theirs.
    """
    wanted = {where: call.record.shapes[axis.parameter][axis.number] for axis, where in offsets.items()}
    waiting, seen = [node], {node}
    while waiting and len(seen) < most:
        at = waiting.pop(0)
        values = [call.value(source) for source in at.all_input_nodes]
        chosen = [value.offsets.values() for value in values if value.kind == "weight"]
        if _is_product(at) and any(not wanted.keys().isdisjoint(numbers) for numbers in chosen):
            continue
        if (picked := _picked(call, at)) is not None and picked[1] <= wanted.get(picked[0], 0):
            return True
        fresh = [source for source in at.all_input_nodes if source not in seen and call.value(source).kind == "data"]
        seen.update(fresh)
        waiting += fresh
    return False


def _is_product(node: fx.Node) -> bool:
    rule = rule_for(node)
    return rule is not None and rule.__module__.rsplit(".", 1)[-1] in ("contraction", "convolution", "einsum")


def _picked(call: Call, node: fx.Node) -> tuple[int, int] | None:
    """The number of the one place of an activation that the op takes, and how many places there are."""
    source, dim, where, stop = (*node.args, None, None, None, None)[:4]
    name = _short(node)
    if name == "getitem" and isinstance(source, fx.Node) and _short(source) == "unbind":
        (source, dim), where = (*source.args, 0)[:2], node.args[1]
    elif name == "slice" and isinstance(where, int) and isinstance(stop, int):
        where = where if stop - where == 1 else None
    elif name != "select":
        return None
    if not (isinstance(source, fx.Node) and isinstance(where, int) and isinstance(dim, int)):
        return None
    value = call.value(source)
    if value.kind != "data" or is_feature(value.dims[dim]):
        return None
    return where % value.shape[dim], value.shape[dim]


def next_features(call: Call, most: int = 64) -> set[int]:
    """The dimensions of the op's result that the next product sums over; none if anything but views lies between."""
    start = parameter_value("", call.shape)
    waiting, seen = [(call.node, replace(start, kind="data"))], {call.node}
    while waiting and len(seen) < most:
        at, value = waiting.pop(0)
        for user in at.users:
            if summed := _summed(user, at, len(value.dims)):
                return _wholly([factor for place in summed for factor in value.dims[place]], call.shape)
            if user not in seen and (moved := _moved(user, at, value)) is not None:
                seen.add(user)
                waiting.append((user, moved))
    return set()


def _summed(node: fx.Node, operand: fx.Node, rank: int) -> list[int]:
    """Which dimensions of its operand an op sums over, or has the features in."""
    name, operands = _short(node), node.args
    if name == "einsum":
        return _summed_letters(node, operand, rank)
    if name in ("addmm", "baddbmm"):
        operands = operands[1:]
    second = name in ("addmm", "baddbmm", "matmul", "mm", "bmm") and operands[1:2] == (operand,)
    place = -2 if second else _CONTRACTED.get(name) if operands[:1] == (operand,) else None
    return [] if place is None or not -rank <= place < rank else [place]


def _summed_letters(node: fx.Node, operand: fx.Node, rank: int) -> list[int]:
    equation, operands = node.args[:2]
    assert isinstance(equation, str) and isinstance(operands, (list, tuple))
    left, arrow, output = equation.replace(" ", "").partition("->")
    output = output if arrow else "".join(letter for letter in left if left.count(letter) == 1)
    term = left.split(",")[operands.index(operand)] if operand in operands else ""
    before, dots, after = term.partition("...")
    letters = before + "." * (rank - len(before + after)) * bool(dots) + after
    return [place for place, letter in enumerate(letters) if letter not in output + "."]


def _moved(node: fx.Node, operand: fx.Node, value: Value) -> Value | None:
    """The value behind a view, or an op entry by entry; None behind others."""
    rule = rule_for(node) if node.op == "call_function" else None
    family = rule.__module__.rsplit(".", 1)[-1] if rule is not None else ""
    if rule is not None and family == "views" and node.args[:1] == (operand,):
        moved = rule(Call(node, {operand: value}, Record()))
        return moved if isinstance(moved, Value) else None
    return value if family == "elementwise" and shape_of(node) == value.shape else None


def _wholly(factors: Iterable[Factor], shape: tuple[int, ...]) -> set[int]:
    """The axes that run through the factors from end to end."""
    sizes: dict[int, int] = {}
    for run in (run for factor in factors for run in factor.runs):
        sizes[run.axis.number] = sizes.get(run.axis.number, 1) * run.size
    return {number for number, size in sizes.items() if size == shape[number]}
