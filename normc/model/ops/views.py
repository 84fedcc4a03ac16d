"""Ops that move entries about and change none: transposes, reshapes, slices, selects, expands, splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.reshaping import reshape
from normc.model.ops.slices import cut, select_entry, spread_along, window
from normc.model.ops.strands import in_a_row
from normc.model.ops.value import (
    Dim,
    Factor,
    Inner,
    Value,
    dim_size,
    fresh_dim,
    is_feature,
    is_source,
    repeated_dim,
)

# Splits that say by their names along which dimension; of a vector, along its own.
_SPLITS = {"aten.vsplit": 0, "aten.hsplit": 1, "aten.dsplit": 2}


def place(index: int, rank: int) -> int:
    """A dimension's index counted from the front."""
    return index + rank if index < 0 else index


@rule(
    "aten.clone", "aten.contiguous", "aten.to", "aten._to_copy", "aten.alias", "aten.detach", "aten.lift_fresh",
    "aten.lift_fresh_copy", "aten.lift", "aten.type_as", "aten.float", "aten.requires_grad", "aten.dropout",
    "aten.feature_dropout", "aten.alpha_dropout", "aten.native_dropout", "aten.resolve_conj", "aten.resolve_neg",
    "aten._conj", "aten.conj", "aten._conj_physical", "aten.real", "aten.imag", "aten.triu",
    "aten.tril", "aten._assert_tensor_metadata", "aten.positive", "aten.fill_diagonal", "aten.rename", "aten.zero",
    "aten.detach_copy", "aten.fft_fftshift", "aten.fft_ifftshift", "aten.alias_copy", "aten.renorm",
)  # fmt: skip
def same(call: Call) -> Result:
    """Entry for entry the first operand."""
    value = call.value(call.first())
    return value if value.shape == call.shape else value.spread_out(call.shape)


@rule("aten.flip", "aten.roll", "aten.fliplr", "aten.flipud")
def turn(call: Call) -> Result:
    """Entries change places along a dimension: that mixes no axes, but parts that lie beside each other there."""
    value = call.value(call.first())
    turned = [value.dims[i] for i in call["dims"] or ()] or value.dims
    if all(factor.whole() for dim in turned for factor in dim):
        return value
    return value.spread_out(call.shape, any(is_feature(dim) for dim in value.dims))


@rule("aten.t", "aten.numpy_T", "aten.mT", "aten.mH", "aten.adjoint", "aten.matrix_H", "aten.t_copy")
def transpose_last(call: Call) -> Result:
    value = call.value(call.first())
    if call.name in ("aten.t", "aten.numpy_T", "aten.t_copy"):
        return value.with_dims(value.dims[::-1])
    return value.with_dims((*value.dims[:-2], value.dims[-1], value.dims[-2]))


@rule("aten.transpose", "aten.swapaxes", "aten.swapdims", "aten.transpose_copy")
def transpose(call: Call) -> Result:
    value = call.value(call.first())
    dims = list(value.dims)
    if not dims:
        return value
    a, b = (place(int(i), len(dims)) for i in call.node.args[1:3])  # type: ignore[arg-type]  # ints by the schema
    dims[a], dims[b] = dims[b], dims[a]
    return value.with_dims(dims)


@rule("aten.permute", "aten.permute_copy")
def permute(call: Call) -> Result:
    value = call.value(call.first())
    return value.with_dims(value.dims[place(i, len(value.dims))] for i in call["dims"])


@rule("aten.movedim", "aten.moveaxis")
def movedim(call: Call) -> Result:
    value = call.value(call.first())
    rank = len(value.dims)
    source, target = (_places(call.node.args[i], rank) for i in (1, 2))
    rest = iter(i for i in range(rank) if i not in source)
    order = [source[target.index(i)] if i in target else next(rest) for i in range(rank)]
    return value.with_dims(value.dims[i] for i in order)


def _places(argument: Any, rank: int) -> list[int]:
    return [place(i, rank) for i in (argument if isinstance(argument, (list, tuple)) else (argument,))]


@rule(
    "aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.view_as",
    "aten.reshape_as", "aten.squeeze", "aten.unsqueeze", "aten.ravel", "aten._reshape_alias", "aten.view_copy",
    "aten.squeeze_copy", "aten.unsqueeze_copy", "aten.atleast_1d", "aten.atleast_2d", "aten.atleast_3d",
)  # fmt: skip
def view(call: Call) -> Result:
    if isinstance(call.first(), (list, tuple)):
        return [reshape(call.value(node), shape) for node, shape in zip(call.operands, call.shapes, strict=True)]
    value = call.value(call.first())
    if math.prod(value.shape) != math.prod(call.shape):
        return value.spread_out(call.shape)
    if call.name.rstrip("_") in ("aten.unsqueeze", "aten.unsqueeze_copy"):
        dims = list(value.dims)
        dims.insert(place(int(call["dim"]), len(dims) + 1), ())
        return value.with_dims(dims)
    return reshape(value, call.shape)


@rule("aten.expand", "aten.expand_as", "aten.broadcast_to", "aten.expand_copy")
def expand(call: Call) -> Result:
    return _expanded(call.value(call.first()), call.shape)


def _expanded(value: Value, shape: tuple[int, ...]) -> Value:
    grown = repeated_dim if value.kind == "weight" else fresh_dim
    dims: list[Dim] = [grown(size) for size in shape[: len(shape) - len(value.dims)]]
    for dim, size in zip(value.dims, shape[len(dims) :], strict=True):
        dims.append(dim if dim_size(dim) == size else grown(size))
    return value.with_dims(dims)


@rule("aten.broadcast_tensors", "aten.meshgrid")
def broadcast_tensors(call: Call) -> Result:
    """Every operand expanded to the shape of all. Those of a grid have a dimension each: of columns first, if "xy"."""
    values = [call.value(node) for node in call.operands]
    if call.name == "aten.meshgrid":
        last = len(values) - 1
        order = [1, 0, *range(2, last + 1)] if call["indexing"] == "xy" and last else range(last + 1)
        values = [v.with_dims((*v.dims, *((),) * (last - at))) for v, at in zip(values, order, strict=True)]
    return [_expanded(value, shape) for value, shape in zip(values, call.shapes, strict=True)]


@rule("aten.repeat", "aten.tile")
def repeat(call: Call) -> Result:
    value = call.value(call.first())
    shape = call.shape
    padded = [(), *(() for _ in shape)][: len(shape) - len(value.dims)] + list(value.dims)
    dims: list[Dim] = []
    for dim, size in zip(padded, shape, strict=True):
        times = size // max(1, dim_size(dim))
        dims.append(dim if times == 1 else (Factor(times, repeated=value.kind == "weight"), *dim))
    return value.with_dims(dims)


@rule("aten.repeat_interleave")
def repeat_interleave(call: Call) -> Result:
    value = call.value(call.first())
    shape = call.shape
    if len(shape) != len(value.dims):
        return value.spread_out(shape)
    dims: list[Dim] = []
    for dim, size in zip(value.dims, shape, strict=True):
        times = size // max(1, dim_size(dim))
        dims.append(dim if times <= 1 else (*dim, Factor(times, repeated=value.kind == "weight")))
    grown = value.with_dims(dims)
    return grown if grown.shape == shape else value.spread_out(shape)


@rule("aten.slice", "aten.narrow", "aten.slice_copy", "aten.narrow_copy")
def slice_(call: Call) -> Result:
    value = call.value(call.first())
    index = place(int(call["dim"]), len(value.dims))
    length = value.shape[index]
    start = call["start"]
    start = 0 if start is None else start
    if not isinstance(start, int):
        return value.spread_out(call.shape, feature=any(f.feature for f in value.dims[index]))
    start = min(max(start + length if start < 0 else start, 0), length)
    step = call["step"]
    part = cut(value, index, start, call.shape[index], step if isinstance(step, int) else 1)
    return part if start or call.shape[index] != 1 else _first_place(part, value.dims[index])


def _first_place(part: Value, dim: Dim) -> Value:
    """The first entry of a weight's axis, by a slice: the beginning of a table of places, and no choice from a stack.

    Where more entries of the axis are read, theirs are the uses that count.
    """
    if part.kind != "weight" or not any(part.dims):
        return part
    first = [Inner(run.axis, "index", 1) for factor in dim for run in factor.runs if not is_source(run.axis)]
    return replace(part, inner=(*part.inner, *first))


@rule("aten.select", "aten.select_copy")
def select(call: Call) -> Result:
    value = call.value(call.first())
    index = place(int(call["dim"]), len(value.dims))
    where = call["index"]
    if not isinstance(where, int):
        return value.with_dims((*value.dims[:index], *value.dims[index + 1 :]))
    return select_entry(value, index, where + value.shape[index] if where < 0 else where)


@rule(
    "aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unsafe_chunk", "aten.unsafe_split",
    "aten.tensor_split", "aten.unsafe_split_with_sizes", "aten.split_copy", "aten.split_with_sizes_copy", *_SPLITS,
)  # fmt: skip
def split(call: Call) -> Result:
    value = call.value(call.first())
    along = call["dim"] if call.name not in _SPLITS else min(_SPLITS[call.name], len(value.dims) - 1)
    index = place(int(along), len(value.dims))
    parts: list[Value] = []
    start = 0
    for shape in call.shapes:
        parts.append(cut(value, index, start, shape[index]))
        start += shape[index]
    return parts


@rule("aten.unbind", "aten.unbind_copy")
def unbind(call: Call) -> Result:
    value = call.value(call.first())
    index = place(int(call["dim"]), len(value.dims))
    return [select_entry(value, index, where) for where in range(len(call.shapes))]


@rule("operator.getitem")
def getitem(call: Call) -> Result:
    source, index = call.node.args
    assert isinstance(source, fx.Node) and isinstance(index, int)
    values: Sequence[Value] = call.values(source)
    return values[index] if index < len(values) else values[0]


@rule("aten.unfold", "aten.unfold_copy")
def unfold(call: Call) -> Result:
    """Windows of one dimension: how many, in its place, and their entries, at the end."""
    value = call.value(call.first())
    index = place(int(call["dimension"]), len(value.dims))
    feature = is_feature(value.dims[index])
    windows = fresh_dim(call.shape[index], feature), fresh_dim(call.shape[-1], feature)
    if any(factor.runs for factor in value.dims[index]):
        value = spread_along(value, index)
    return value.with_dims((*value.dims[:index], windows[0], *value.dims[index + 1 :], windows[1]))


@rule("aten.im2col", "aten.col2im", "aten.pixel_shuffle", "aten.pixel_unshuffle")
def patches(call: Call) -> Result:
    """Channels and a window's entries trade places; what were places are places still."""
    value = call.value(call.first())
    channel = len(value.dims) - (2 if call.name == "aten.col2im" else 3)
    feature, before = is_feature(value.dims[channel]), value.shape[channel]
    dims = [fresh_dim(size) for size in call.shape]
    channels, window = (before, call.shape[channel] // before) if before else (0, 1)
    if window < 1 or channels * window != call.shape[channel]:
        channels, window = call.shape[channel], 1
    dims[channel] = (*fresh_dim(channels, feature), *fresh_dim(window))
    if call.name == "aten.im2col" and not any(factor.runs for dim in value.dims[channel + 1 :] for factor in dim):
        return value.with_dims((*value.dims[:channel], (*value.dims[channel], *fresh_dim(window)), dims[-1]))
    return value.spread_out(call.shape).with_dims(dims)


@rule("aten.as_strided")
def as_strided(call: Call) -> Result:
    value, val = call.value(call.first()), call.first().meta["val"]
    if list(call["stride"]) == list(val.stride()) and not val.storage_offset():
        found = window(value, val.stride(), call.shape, int(call["storage_offset"] or 0))
        return value.spread_out(call.shape, feature=True) if found is None else found
    return value.spread_out(call.shape, feature=any(is_feature(dim) for dim in value.dims))


@rule("aten.constant_pad_nd", "aten.pad", "aten.reflection_pad1d", "aten.reflection_pad2d", "aten.replication_pad2d")
def pad(call: Call) -> Result:
    """Entries before and behind those of a dimension, the last dimension's first; negative ones are cut off."""
    value = call.value(call.first())
    ends: Sequence[Any] = call["pad"] or call["padding"]
    for i in range(len(ends) // 2):
        index = len(value.dims) - 1 - i
        before, behind = (max(int(end), 0) for end in ends[2 * i : 2 * i + 2])
        value = cut(value, index, before - int(ends[2 * i]), call.shape[index] - before - behind)
        if not before + behind:
            continue
        parts = [fresh_dim(before) if before else None, value.dims[index], fresh_dim(behind) if behind else None]
        row = in_a_row([(dim, frozenset()) for dim in parts if dim is not None], call.shape[index])
        if row is None:
            return value.spread_out(call.shape, any(is_feature(dim) for dim in value.dims))
        value = value.with_dims((*value.dims[:index], row, *value.dims[index + 1 :]))
    return value
