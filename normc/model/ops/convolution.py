"""Convolutions, plain, grouped and transposed. Fan-in is the input channels of a group times the kernel window."""

from __future__ import annotations

from dataclasses import replace

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.contraction import add_bias
from normc.model.ops.kept import has_runs, keeps
from normc.model.ops.overlay import overlaid
from normc.model.ops.reshaping import reshape
from normc.model.ops.slices import split_leading
from normc.model.ops.value import Dim, Factor, Value, as_feature, dim_size, fresh_dim
from normc.plans.row import AxisUse


@rule(
    "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.conv_transpose1d", "aten.conv_transpose2d",
    "aten.conv_transpose3d", "aten.convolution", "aten._convolution", "torchvision.deform_conv2d",
)  # fmt: skip
def convolution(call: Call) -> Result:
    """weight [out, in/groups, window...]; transposed [in, out/groups, window...]. Depthwise, a channel stays itself."""
    data, weight = call.node.args[:2]
    w = call.value(weight)
    x = call.data(data, 0, feature=1)
    places = tuple(fresh_dim(size) for size in call.shape[2:])
    groups, before = int(call["groups"] or 1), call.value(data)
    by_channel = groups > 1 and groups == before.shape[1] and before.kind == "data"
    if w.kind != "weight":
        call.consume(weight, 1)
        made = Value("data", (*x.dims[:1], fresh_dim(call.shape[1], True), *places), touched=x.touched or w.touched)
        if by_channel and made.shape == call.shape:
            made = _with_channels(made, before, call.shape[1] // groups)
        return add_channel_bias(call, _with_rest(made, before, w))
    transposed = "transpose" in call.name or bool(call["transposed"])
    window: list[AxisUse] = ["kernel"] * (len(w.dims) - 2)
    grouped = split_leading(w, 0, groups)
    inside: list[AxisUse] = ["in", "out"] if transposed else ["out", "in"]
    call.meet(grouped, ["block", *inside, *window], "convolve", data)
    channels = _channels(w, groups, transposed)
    result = Value("data", (*x.dims[:1], channels, *places), offsets=w.offsets, spread=w.spread, touched=True)
    if result.shape != call.shape:
        return add_channel_bias(call, result.spread_out(call.shape, feature=True))
    if not by_channel:
        return add_channel_bias(call, _with_rest(result, before, w))
    filtered = _with_channels(result, before, call.shape[1] // groups)
    add_channel_bias(call, filtered if call.holds_all(before) else result)
    return filtered


def _with_rest(result: Value, before: Value, weight: Value) -> Value:
    """Samples are what they were, and so is a dimension that the window doesn't slide along: channels are places."""
    slid = [i for i, size in enumerate(weight.shape[2:], 2) if size > 1 or result.shape[i] != before.shape[i]]
    if len(before.dims) != len(result.dims) or not keeps(before, (1, *slid)):
        return result
    kept = [dim if i in (1, *slid) or not has_runs(old) else old
            for i, (dim, old) in enumerate(zip(result.dims, before.dims, strict=True))]  # fmt: skip
    return replace(result, dims=tuple(kept), offsets={**before.offsets, **result.offsets})


def _with_channels(result: Value, before: Value, times: int) -> Value:
    """Each channel filtered by itself, `times` times, is still what it was, and so are the samples."""
    kept = (*before.dims[1], Factor(times)) if times > 1 else before.dims[1]
    channels = as_feature(overlaid([result.dims[1], kept], dim_size(result.dims[1])))
    return replace(
        result,
        dims=(before.dims[0], channels, *result.dims[2:]),
        offsets={**before.offsets, **result.offsets},
        spread={**before.spread, **result.spread},
        summed=before.summed,
    )


def _channels(weight: Value, groups: int, transposed: bool) -> Dim:
    if not transposed:
        return as_feature(weight.dims[0])
    if groups == 1:
        return as_feature(weight.dims[1])
    size = groups * weight.shape[1]
    return as_feature(reshape(weight.with_dims((fresh_dim(size),)), (size,)).dims[0])


def add_channel_bias(call: Call, result: Value) -> Value:
    """The bias lies along dimension 1, not along the last one."""
    bias = call["bias"]
    if bias is None or call.value(bias).kind != "weight":
        return result
    last = result.with_dims((*result.dims[:1], *result.dims[2:], result.dims[1]))
    add_bias(call, bias, last)
    return result
