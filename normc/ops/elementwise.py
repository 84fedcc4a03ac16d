"""Elementwise ops: gains, shifts, gates, residual joins, activations, and arithmetic among weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from normc.ops.call import Call, ContactKind, Result, rule
from normc.ops.value import Axis, Value, broadcast, dim_size, is_feature, plain, united
from normc.plans.row import AxisUse

_PRODUCTS = {"mul", "div", "true_divide", "multiply", "divide", "prelu", "_prelu_kernel", "pow", "floor_divide"}
_SUMS = {"add", "sub", "rsub", "subtract"}
_LINEAR = _PRODUCTS | _SUMS | {"neg", "clone", "where", "masked_fill", "copy", "fill", "lerp", "addcmul"} - {"pow"}


def short(call: Call) -> str:
    """`mul` for aten.mul and aten.mul_."""
    return call.name.rsplit(".", 1)[-1].rstrip("_")


@rule(
    "pointwise", "aten.softmax", "aten._softmax", "aten.log_softmax", "aten._safe_softmax", "aten.cumsum",
    "aten.cumprod", "aten.prelu", "aten._prelu_kernel", "aten.logcumsumexp", "aten.rrelu", "aten.celu", "aten.selu",
    "aten.gelu", "aten.glu_jvp", "aten.masked_fill", "aten.where", "aten.nan_to_num", "aten.hardswish",
    "aten.hardsigmoid", "aten.relu6", "aten.silu", "aten.mish", "aten.log_sigmoid", "aten.softplus", "aten.logit",
    "aten.bernoulli",
)  # fmt: skip
def pointwise(call: Call) -> Result:
    """Each result entry depends on the operands' entries at its place (a softmax also on its neighbours')."""
    nodes = call.operands
    values = [call.value(node) for node in nodes]
    if not call.shapes or len(call.shapes) > 1:
        return [_combined(call, nodes, values, shape) for shape in call.shapes]
    return _combined(call, nodes, values, call.shape)


def _combined(call: Call, nodes: list[fx.Node], values: list[Value], shape: tuple[int, ...]) -> Value:
    weights = [value for value in values if value.kind == "weight"]
    data = [(node, value) for node, value in zip(nodes, values, strict=True) if value.kind == "data"]
    if not data:
        return _among_weights(call, weights, values, shape)
    joined = _joined_data(call, data, shape)
    for weight in weights:
        meet_elementwise(call, weight, joined, data[0][0], shape)
    return joined


def _among_weights(call: Call, weights: list[Value], values: list[Value], shape: tuple[int, ...]) -> Value:
    if not weights:
        return Value("constant", broadcast(values, shape))
    name = short(call)
    via = tuple(dict.fromkeys(step for weight in weights for step in weight.via))
    if name not in _LINEAR and name not in via and not _is_constant_result(call):
        via = (*via, name)
    return Value(
        "weight" if not _is_constant_result(call) else "constant",
        broadcast(weights, shape),
        frozenset().union(*(weight.parameters for weight in weights)),
        {axis: offset for weight in weights for axis, offset in weight.offsets.items()},
        {axis: spans for weight in weights for axis, spans in weight.spread.items()},
        tuple(dict.fromkeys(inner for weight in weights for inner in weight.inner)),
        via=via,
        lost=next((weight.lost for weight in weights if weight.lost), ""),
    )


def _is_constant_result(call: Call) -> bool:
    """Comparisons and roundings to integers carry no gradient."""
    val = call.node.meta.get("val")
    return isinstance(val, torch.Tensor) and not (val.dtype.is_floating_point or val.dtype.is_complex)


def _joined_data(call: Call, data: list[tuple[fx.Node, Value]], shape: tuple[int, ...]) -> Value:
    """One activation passes on its axes; several of the same origin too; a meeting of different ones ends them."""
    touched = any(value.touched for _, value in data)
    values = [value for _, value in data]
    axes = [value.axes() for value in values]
    carriers = [value for value, own in zip(values, axes, strict=True) if own]
    if len(carriers) == 1 and _only_scales(carriers[0], values):
        return replace(carriers[0], dims=broadcast(values, shape), touched=touched)
    same = all(own == axes[0] for own in axes)
    if not carriers or (same and not (short(call) in _PRODUCTS and _disjoint(values))):
        return _same_origin(values, shape, touched)
    for slot, (node, _) in enumerate(data):
        call.consume(node, slot)
    return Value("data", tuple(plain(dim) for dim in broadcast(values, shape)), touched=touched)


def _disjoint(values: list[Value]) -> bool:
    """Whether two parts of one output meet that have no entry in common, as a gate and what it gates."""
    first, second = values[0].origins(), values[-1].origins()
    return any(
        all(stop <= a or start >= b for start, stop in spans for a, b in second[axis]) for axis, spans in first.items()
    )


def _only_scales(carrier: Value, values: list[Value]) -> bool:
    """Whether all other operands come before any weight (masks, rotary tables, inputs)."""
    return all(value is carrier or not value.touched for value in values)


def _same_origin(values: list[Value], shape: tuple[int, ...], touched: bool) -> Value:
    return united(values, broadcast(values, shape), touched)


def meet_elementwise(call: Call, weight: Value, data: Value, node: fx.Node, shape: tuple[int, ...]) -> None:
    """A weight meets an activation entry by entry: its axes along features are fan-out, along places an index."""
    uses: list[AxisUse] = []
    aligned: list[Axis] = []
    lead = len(shape) - len(weight.dims)
    features = [is_feature(dim) for dim in data.dims]
    for place, dim in enumerate(weight.dims):
        spot = place + lead
        if dim_size(dim) == 1:
            uses.append("none")
        elif features[spot] or not any(features):
            uses.append("out")
            aligned += [run.axis for factor in data.dims[spot] for run in factor.runs]
        else:
            uses.append("index")
    if not any(features):
        for place in range(len(uses) - 1):
            uses[place] = "index" if uses[place] == "out" else uses[place]
    call.meet(weight, uses, _kind(call, weight), node, partners=tuple(dict.fromkeys(aligned)))


def _kind(call: Call, weight: Value) -> ContactKind:
    name = short(call)
    if name in _PRODUCTS or name in ("addcmul", "lerp", "addcdiv"):
        return "gain"
    if name in _SUMS:
        return "shift"
    if name in ("where", "masked_fill", "copy", "maximum", "minimum", "index_put", "fmax"):
        return "join"
    return "unknown"
