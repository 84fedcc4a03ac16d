"""Ops that move entries, put them beside each other or average them."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from normc.model.gains.local import At, Back, Local, Size, floats, gain
from normc.model.ops.value import Value, is_feature
from normc.model.trace.graph import shape_of


@gain(
    "aten._to_copy", "aten._unsafe_view", "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.alias",
    "aten.adaptive_avg_pool3d", "aten.adaptive_max_pool2d", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d",
    "aten.channel_shuffle", "aten.clone", "aten.constant_pad_nd", "aten.contiguous", "aten.detach", "aten.diagonal",
    "aten.dropout", "aten.expand", "aten.expand_as", "aten.feature_dropout", "aten.flatten", "aten.flip",
    "aten.gather", "aten.im2col", "aten.index", "aten.index_select", "aten.lift_fresh", "aten.mT", "aten.masked_select",
    "aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.moveaxis", "aten.movedim",
    "aten.native_dropout", "aten.numpy_T", "aten.pad", "aten.permute", "aten.pixel_shuffle", "aten.pixel_unshuffle",
    "aten.ravel", "aten.reflection_pad1d", "aten.reflection_pad2d", "aten.repeat", "aten.repeat_interleave",
    "aten.replication_pad1d", "aten.replication_pad2d", "aten.reshape", "aten.roll", "aten.squeeze", "aten.swapaxes",
    "aten.t", "aten.T", "aten.take_along_dim", "aten.tile", "aten.to", "aten.transpose", "aten.type_as", "aten.tril",
    "aten.triu", "aten.unflatten", "aten.unfold", "aten.unsqueeze", "aten.upsample_bilinear2d",
    "aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.view", "aten.view_as", "aten._reshape_alias",
    "aten._upsample_bicubic2d_aa", "aten.upsample_bicubic2d", "aten.max_pool2d_with_indices", "aten.view_as_real",
    "aten.view_as_complex", "aten.float", "aten.half", "aten.bfloat16", "aten.double", "aten.index_put",
    "aten.real", "aten.resolve_conj", "aten.conj", "aten.col2im", "aten.rot90", "aten.narrow", "aten.max", "aten.min",
    "aten.amax", "aten.amin", "aten.cummax", "aten.topk", "aten.sort", "aten.take",
)  # fmt: skip
def moved(at: At) -> Local:
    """Entries stay what they are; a mean or maximum over places is no larger than the largest."""
    return at.passing()


@gain("operator.getitem", "aten.slice", "aten.select", "aten.chunk", "aten.split", "aten.split_with_sizes",
      "aten.unbind", "aten.tensor_split", "aten.unsafe_chunk", "aten.unsafe_split")  # fmt: skip
def part(at: At) -> Local:
    """A part has the RMS of the whole on average, at most sqrt(whole / part) of it along features (THEORY A'1)."""
    operand = at.data[0]
    gained = 1.0
    value = at.values.get(operand)
    if at.model.convention == "sharp" and isinstance(value, Value) and len(at.shape) == len(value.dims):
        for dim, kept in zip(value.dims, at.shape, strict=True):
            whole = math.prod(factor.size for factor in dim)
            if is_feature(dim) and 0 < kept < whole:
                gained *= math.sqrt(whole / kept)
    return Local(at.size(operand), (Back(operand, gained),))


@gain("aten.cat", "aten.stack", "aten.concat", "aten.hstack", "aten.vstack", "aten.column_stack")
def beside(at: At) -> Local:
    """RMS of parts beside each other; a part's change is diluted by its share of the entries."""
    parts = at.node.args[0]
    assert isinstance(parts, (list, tuple))
    nodes = [node for node in parts if isinstance(node, fx.Node) and floats(node)]
    counts = [math.prod(shape_of(node)) for node in nodes]
    total = sum(counts) or 1
    square = sum(n * at.rms(node) ** 2 for n, node in zip(counts, nodes, strict=True)) / total
    mean = sum(n * at.size(node).mean for n, node in zip(counts, nodes, strict=True) if at.kind(node) == "data") / total
    back = []
    for count, node in zip(counts, nodes, strict=True):
        if at.kind(node) == "data":
            back.append(Back(node, 1.0 if at.model.nominal else math.sqrt(count / total)))
    return Local(Size(math.sqrt(square), mean), tuple(back))


@gain("aten.mean", "aten.sum", "aten.nansum")
def pooled(at: At) -> Local:
    """A mean of n entries of mean m and deviation s: sqrt(m^2 + s^2/n). Over places it counts as 1, as in Modula."""
    operand = at.data[0]
    count = max(math.prod(shape_of(operand)), 1) / max(math.prod(at.shape), 1)
    multiple = count if at.name != "mean" else 1.0
    if at.model.nominal or not _over_features(at, operand):
        size = at.size(operand)
        return Local(Size(size.rms * multiple, size.mean * multiple, size.sign), (Back(operand, multiple),))
    size = at.size(operand)
    rms = math.hypot(size.mean, size.deviation / math.sqrt(count))
    pooled_size = Size(rms * multiple, size.mean * multiple, size.sign)
    return Local(pooled_size, (Back(operand, multiple / math.sqrt(count)),))


def _over_features(at: At, operand: fx.Node) -> bool:
    """Whether a feature axis is among those that are summed."""
    value = at.values.get(operand)
    if not isinstance(value, Value):
        return False
    given: Any = at.node.args[1] if len(at.node.args) > 1 else at.node.kwargs.get("dim")
    places = [given] if isinstance(given, int) else list(given or range(len(value.dims)))
    return any(is_feature(value.dims[place]) for place in places)
