"""Slices and selects of a value: which entries stay, and where a select has fixed an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from normc.model.ops.reshaping import split_factor
from normc.model.ops.value import Dim, Factor, Inner, Run, Thread, Value, dim_size, fresh_dim, is_feature, plain


def cut(value: Value, index: int, start: int, size: int, step: int = 1) -> Value:
    """Entries start, start + step, ... of a dimension; spread where its factors don't allow it."""
    dim = value.dims[index]
    if size == dim_size(dim):
        return value
    if not size:
        return value.spread_out(tuple(size if i == index else n for i, n in enumerate(value.shape)))
    if size == 1:
        return select_entry(value, index, start, keep=True)
    inner = math.prod(factor.size for factor in dim[1:])
    before, after = value.dims[:index], value.dims[index + 1 :]
    if len(dim) == 1 or (step == 1 and not start % inner and not size % inner):
        new: Dim = (dim[0].cut(start // inner, size // inner, step), *dim[1:])
        gone = {run.thread for run in dim[0].runs} - {run.thread for run in new[0].runs}
        return without(value.with_dims((*before, new, *after)), gone)
    if start // inner == (start + (size - 1) * step) // inner:
        outer = select_entry(value.with_dims((*before, dim[:1], dim[1:], *after)), index, start // inner)
        outer = replace(outer, inner=(*outer.inner, *_places(value, dim)))
        return cut(outer, index, start % inner, size, step)
    if step % inner == 0:  # of every outer entry, or every second, the same inner one
        taken = dim[0].cut(start // inner, size, step // inner)
        gone = {run.thread for run in dim[0].runs} - {run.thread for run in taken.runs}
        return select_entry(
            without(value.with_dims((*before, (taken,), dim[1:], *after)), gone), index + 1, start % inner
        )
    if value.kind == "data" and not any(factor.runs for factor in dim):
        return value.with_dims((*before, fresh_dim(size, is_feature(dim)), *after))
    shape = tuple(size if i == index else n for i, n in enumerate(value.shape))
    return value.spread_out(shape, feature=any(f.feature for f in dim))


def select_entry(value: Value, index: int, where: int, keep: bool = False) -> Value:
    """One entry of a dimension; the dimension stays with size 1 if `keep`."""
    offsets = dict(value.offsets)
    picked: list[Factor] = []
    gone: set[Thread] = set()
    rest = where
    for factor in reversed(value.dims[index]):
        rest, digit = divmod(rest, factor.size)
        there: dict[Thread, list[Run]] = {}
        for run in factor.cut(digit, 1).runs:
            there.setdefault(run.thread, []).append(run)
        gone |= {run.thread for run in factor.runs} - there.keys()
        for (axis, strand), runs in there.items():
            if strand or len(runs) > 1:
                picked.append(Factor(1, tuple(runs)))
            else:
                offsets[axis] = offsets.get(axis, 0) + runs[0].start
    middle: tuple[Dim, ...] = ((),) if keep else ()
    dims = (*value.dims[:index], *middle, *value.dims[index + 1 :])
    chosen = replace(value, dims=dims, offsets=offsets, summed=(*value.summed, *picked))
    if value.kind == "weight":
        chosen = replace(chosen, inner=(*value.inner, *_stacked(value.dims[index], chosen)))
    return without(chosen, gone)


def _stacked(dim: Dim, chosen: Value) -> list[Inner]:
    """Where a select takes one of several stretches of an axis that a view had split, the axis is a stack of them."""
    runs = [run for factor in dim if factor.whole() for run in factor.runs]
    left = {run.axis for kept in chosen.dims for factor in kept for run in factor.runs}
    return [Inner(run.axis, "block", run.size, run.stride) for run in runs if run.axis in left]


def _places(value: Value, dim: Dim) -> list[Inner]:
    """Where a slice of a dimension leaves one entry of the outer axis, that counts places as the whole dimension does.

    So it is where others run along the inner axes (rows and columns of a picture): else the outer axis is a stack.
    """
    inside = {run.axis.parameter for factor in dim[1:] for run in factor.runs}
    outer = (run for run in dim[0].runs if value.kind == "weight" and run.axis.parameter not in inside)
    return [Inner(run.axis, "index", 1) for run in outer]


def without(value: Value, threads: set[Thread]) -> Value:
    """The value, from which a slice has left out all that the parameters of `threads` had in it, on those strands."""
    if not threads:
        return value
    gone = {(axis.parameter, strand) for axis, strand in threads}
    names = {parameter for parameter, strand in gone if not strand}

    def kept(dim: Dim) -> Dim:
        return tuple(
            replace(f, runs=tuple(run for run in f.runs if (run.axis.parameter, run.strand) not in gone)) for f in dim
        )

    return replace(
        value,
        dims=tuple(kept(dim) for dim in value.dims),
        summed=kept(value.summed),
        parameters=value.parameters - names,
        offsets={axis: offset for axis, offset in value.offsets.items() if axis.parameter not in names},
        spread={axis: spans for axis, spans in value.spread.items() if axis.parameter not in names},
        inner=tuple(inner for inner in value.inner if inner.axis.parameter not in names),
    )


def split_leading(value: Value, index: int, groups: int) -> Value:
    """Dimension `index` as two: groups, then what is in a group."""
    dim = value.dims[index]
    if not dim:
        return value.with_dims((*value.dims[:index], (), (), *value.dims[index + 1 :]))
    if len(dim) > 1 and dim[0].size == groups:
        return value.with_dims((*value.dims[:index], dim[:1], dim[1:], *value.dims[index + 1 :]))
    if len(dim) > 1 and dim_size(dim) == groups:
        return value.with_dims((*value.dims[: index + 1], (), *value.dims[index + 1 :]))
    halves = split_factor(dim[0], groups) if len(dim) == 1 else None
    if halves is None:
        shape = list(value.shape)
        shape[index : index + 1] = [groups, shape[index] // groups]
        return value.spread_out(tuple(shape))
    outer, inner = halves
    ends: tuple[Dim, Dim] = ((outer,) if groups > 1 else (), (inner,) if inner.size > 1 else ())
    return value.with_dims((*value.dims[:index], *ends, *value.dims[index + 1 :]))


def spread_along(value: Value, index: int) -> Value:
    """The value, of which the order along a dimension is no longer known; along none, if that runs through others."""
    dims = [plain(dim) if i == index else dim for i, dim in enumerate(value.dims)]
    axes = {run.axis for factor in value.dims[index] for run in factor.runs}
    if axes & value.with_dims(dims).axes():
        return value.spread_out(value.shape).with_dims(map(plain, value.dims))
    origins = value.origins()
    return replace(value, dims=tuple(dims), spread={**value.spread, **{axis: origins[axis] for axis in axes}})


def window(value: Value, strides: Sequence[int], shape: Sequence[int], offset: int) -> Value | None:
    """The window of a tensor that starts at a number of its memory; None if there is none of that shape."""
    for i, (stride, size) in enumerate(zip(strides, shape, strict=True)):
        start, offset = divmod(offset, stride or 1)
        if start + size > value.shape[i]:
            return None
        value = cut(value, i, start, size)
    return value
