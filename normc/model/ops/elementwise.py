"""Elementwise ops: gains, shifts, gates, residual joins, activations, and arithmetic among weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import fx

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.meeting import DIFFERENCES, LOSSES, PRODUCTS, SUMS, meet_elementwise, short
from normc.model.ops.overlay import broadcast, united, varying
from normc.model.ops.value import Made, Value, as_feature, covered, fresh_dim, plain, repeated_dim
from normc.nodes import op_name

_SPLITS = ("aten.chunk", "aten.split", "aten.split_with_sizes", "aten.unbind", "aten.glu")
_CHOICES = {"where", "masked_fill"}
_LINEAR = (PRODUCTS | SUMS | _CHOICES | {"neg", "clone", "copy", "fill", "lerp", "addcmul", "complex"}) - {"pow"}


@rule(
    "pointwise", "aten.softmax", "aten._softmax", "aten.log_softmax", "aten._safe_softmax", "aten.cumsum",
    "aten.cumprod", "aten._prelu_kernel", "aten.logcumsumexp", "aten.rrelu", "aten.celu", "aten.selu",
    "aten.gelu", "aten.glu_jvp", "aten.masked_fill", "aten.where", "aten.nan_to_num", "aten.hardswish",
    "aten.hardsigmoid", "aten.relu6", "aten.silu", "aten.mish", "aten.log_sigmoid", "aten.softplus", "aten.logit",
    "aten.bernoulli", "aten.complex", "aten.polar",
)  # fmt: skip
def pointwise(call: Call) -> Result:
    """Each result entry depends on the operands' entries at its place (a softmax also on its neighbours')."""
    nodes = call.operands
    values = [call.value(node) for node in nodes]
    if not call.shapes or len(call.shapes) > 1:
        return [combined(call, nodes, values, shape) for shape in call.shapes]
    return combined(call, nodes, values, call.shape)


@rule("aten.prelu")
def prelu(call: Call) -> Result:
    """A slope for every channel, which is dimension 1."""
    nodes = call.operands
    values = [call.value(node) for node in nodes]
    slopes = values[1]
    values[1] = slopes.with_dims((*slopes.dims, *(() for _ in call.shape[2:])))
    return combined(call, nodes, values, call.shape)


@rule(*(f"aten.{name}" for name in sorted(LOSSES)))
def loss(call: Call) -> Result:
    """A sum over the differences."""
    nodes = call.operands[:2]
    values = [call.value(node) for node in nodes]
    shape = max((value.shape for value in values), key=lambda shape: (len(shape), shape))
    found = combined(call, nodes, values, shape)
    return found if found.shape == call.shape else found.spread_out(call.shape)


def combined(call: Call, nodes: list[fx.Node], values: list[Value], shape: tuple[int, ...]) -> Value:
    """An entry-by-entry result: weights among themselves make a weight, and meet the activations otherwise."""
    weights = [value for value in values if value.kind == "weight"]
    data = [(node, value) for node, value in zip(nodes, values, strict=True) if value.kind == "data"]
    data = [item for item in data if not is_mask(item[0])] or data  # a mask says which entries stay, and is none
    if not data:
        return _among_weights(call, weights, values, shape)
    joined = _joined_data(call, data, shape)
    own = [value.shape for _, value in data]
    outer = frozenset(
        i for i, n in enumerate(shape) if n > 1 and all(size[i - len(shape) :][:1] in ((), (1,)) for size in own)
    )
    for weight in weights:
        meet_elementwise(call, weight, joined, data[0][0], shape, outer)
    joined = joined.with_dims(as_feature(dim) if i in outer else dim for i, dim in enumerate(joined.dims))
    return replace(joined, made=_made(call, nodes, values, shape)) if weights else joined


def _made(call: Call, nodes: list[fx.Node], values: list[Value], shape: tuple[int, ...]) -> tuple[Made, ...]:
    """What a product or sum of weights and activations is as a weight, or a choice that activations make among them."""
    weights = [value for value in values if value.kind == "weight"]
    data = [(node, value) for node, value in zip(nodes, values, strict=True) if value.kind == "data"]
    name = short(call)
    if name in _CHOICES and all(is_mask(node) for node, _ in data):
        return call.stack(_among_weights(call, weights, values, shape))
    scaled = name in ("mul", "multiply") or (name in ("div", "true_divide") and values[0].kind == "weight")
    table = any(sum(map(bool, weight.dims)) > 1 for weight in weights)
    measured = name in LOSSES and call.shape == shape
    if not scaled and not (table and (measured or is_sum(call))):
        return ()
    whole = _among_weights(call, weights, values, shape)
    dims = [varying(dim, place, data, shape) for place, dim in enumerate(whole.dims)]
    form: Literal["product", "sum", "distance"] = "product" if scaled else "distance" if measured else "sum"
    made = Made(form, whole.with_dims(dims), frozenset({call.node.name}), data[0][0])
    return (made,) if not whole.lost else ()


def _among_weights(call: Call, weights: list[Value], values: list[Value], shape: tuple[int, ...]) -> Value:
    if not weights:
        return Value("constant", broadcast(values, shape))
    name = short(call)
    dims = broadcast(weights, shape)
    if len(values) > len(weights) and all(
        _is_even(node) for node in call.operands if call.value(node).kind == "constant"
    ):
        dims = tuple(repeated_dim(n) if dim == fresh_dim(n) else dim for dim, n in zip(dims, shape, strict=True))
    combined = Value(
        "weight" if not _is_constant_result(call) else "constant",
        dims,
        frozenset().union(*(weight.parameters for weight in weights)),
        {axis: offset for weight in weights for axis, offset in weight.offsets.items()},
        {axis: spans for weight in weights for axis, spans in weight.spread.items()},
        tuple(dict.fromkeys(inner for weight in weights for inner in weight.inner)),
        via=tuple(dict.fromkeys(step for weight in weights for step in _steps(weight, weights))),
        lost=next((weight.lost for weight in weights if weight.lost), ""),
        reduced=frozenset(
            name
            for weight in weights
            for name in weight.reduced
            if all(name in other.reduced for other in weights if name in other.parameters)
        ),
    )
    return combined if is_linear(call) or combined.kind == "constant" else combined.through(name)


def is_linear(call: Call) -> bool:
    """Whether an op entry by entry is a sum, a product or a choice."""
    return short(call) in _LINEAR


def is_sum(call: Call) -> bool:
    """Whether an op entry by entry is a sum or a difference."""
    return short(call) in {"add"} | DIFFERENCES - LOSSES


def is_size(call: Call) -> bool:
    """Whether an op says entry by entry how large its operand is: a square, a power, what is left without a sign."""
    squared = short(call) in ("mul", "multiply") and call.operands[:1] == call.operands[1:]
    return squared or short(call) in ("square", "abs", "pow")


def _is_even(node: fx.Node) -> bool:
    """Whether a constant is known, and one number everywhere."""
    concrete = node.meta.get("concrete")
    if not isinstance(concrete, torch.Tensor):
        return not isinstance(node.meta.get("val"), torch.Tensor)
    return concrete.numel() > 0 and bool((concrete == concrete.reshape(-1)[0]).all())


def _steps(weight: Value, weights: list[Value]) -> Iterator[tuple[str, str]]:
    """The ops that a weight went through; not those of a statistic of it (its norm, its scale) beside itself."""
    for name, op in weight.via:
        beside = any(name in other.parameters and name not in other.reduced for other in weights)
        if name not in weight.reduced or not beside:
            yield name, op


def _is_constant_result(call: Call) -> bool:
    """Comparisons and roundings to integers carry no gradient."""
    val = call.node.meta.get("val")
    return isinstance(val, torch.Tensor) and not (val.dtype.is_floating_point or val.dtype.is_complex)


def is_mask(node: fx.Node) -> bool:
    """Whether a tensor is of truth values."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.bool


def _joined_data(call: Call, data: list[tuple[fx.Node, Value]], shape: tuple[int, ...]) -> Value:
    """One activation passes on its axes; several of the same origin too; a meeting of different ones ends them."""
    touched = any(value.touched for _, value in data)
    values = [value for _, value in data]
    axes = [value.axes() for value in values]
    carriers = [value for value, own in zip(values, axes, strict=True) if own]
    if len(carriers) == 1 and _only_scales(carriers[0], values):
        via = () if is_linear(call) else (("", short(call)),)
        dims = broadcast(values, shape)
        return replace(carriers[0], dims=dims, touched=touched, via=tuple(dict.fromkeys((*carriers[0].via, *via))))
    same = all(own == axes[0] for own in axes)
    if not carriers or (same and not (_apart(call, values) and _disjoint(values))):
        return united(values, shape, touched)
    if (sum_ := _sum_of_outputs(call, data, shape)) is not None:
        return sum_
    for slot, (node, _) in enumerate(data):
        call.consume(node, slot)
    return Value("data", tuple(plain(dim) for dim in broadcast(values, shape)), touched=touched)


def _apart(call: Call, values: list[Value]) -> bool:
    """Whether parts of one output that meet here are told apart: multiplied, chosen from, or added after functions."""
    if short(call) == "where":
        return True
    name = short(call)
    return name in PRODUCTS or (name in SUMS and len({value.via for value in values}) > 1)


def _sum_of_outputs(call: Call, data: list[tuple[fx.Node, Value]], shape: tuple[int, ...]) -> Value | None:
    """The sum of two layers' outputs (a gate's, of the input and of the state) is an output of both.

    Not so where a branch is added to the stream that it came from, unless the sum is split at once.
    """
    values = [value for _, value in data]
    axes = [value.axes() for value in values]
    names = {axis.parameter for own in axes for axis in own}
    if short(call) not in SUMS or len(data) != 2 or not all(axes) or axes[0] & axes[1] or len(names) > 4:
        return None
    split = any(op_name(user) in _SPLITS for user in call.node.users)
    if any(value.spread or value.summed for value in values) or (not split and _follows(data[0][0], data[1][0])):
        return None
    offsets = {axis: offset for value in values for axis, offset in value.offsets.items()}
    both = Value("data", broadcast(values, shape), offsets=offsets, touched=True)
    return both if both.axes() == axes[0] | axes[1] else None


def _follows(a: fx.Node, b: fx.Node, most: int = 128) -> bool:
    """Whether one of two nodes is computed from the other, within a short way."""
    for start, goal in ((a, b), (b, a)):
        waiting, seen = [start], {start}
        while waiting and len(seen) < most:
            for source in waiting.pop(0).all_input_nodes:
                if source is goal:
                    return True
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
    return False


def _disjoint(values: list[Value]) -> bool:
    """Whether two parts of one output meet that have no entry in common, as a gate and what it gates."""
    first, second = values[0].origins(), values[-1].origins()
    return any(
        covered(spans) + covered(second[axis]) == covered((*spans, *second[axis])) for axis, spans in first.items()
    )


def _only_scales(carrier: Value, values: list[Value]) -> bool:
    """Whether all other operands come before any weight (masks, rotary tables, inputs)."""
    return all(value is carrier or not value.touched for value in values)
