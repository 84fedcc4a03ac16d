"""A value in another shape: factors split and merge in row-major order."""

from __future__ import annotations

import math
from dataclasses import replace

from normc.model.ops.value import Dim, Factor, Run, Value, dim_size


def reshape(value: Value, shape: tuple[int, ...]) -> Value:
    """Split and merge dimensions in row-major order; entries are spread where a factor can't be split."""
    if 0 in shape:
        return value.spread_out(shape)
    rest = [factor for dim in value.dims for factor in dim]
    dims: list[Dim] = []
    for size in shape:
        dim: list[Factor] = []
        wanted = size
        while wanted > 1:
            if not rest:
                return value.spread_out(shape)
            factor = rest.pop(0)
            if wanted % factor.size == 0:
                dim.append(factor)
                wanted //= factor.size
                continue
            halves = split_factor(factor, wanted)
            if halves is None:
                return value.spread_out(shape, feature=any(f.feature for d in value.dims for f in d))
            dim.append(halves[0])
            rest.insert(0, halves[1])
            wanted = 1
        dims.append(_joined(dim))
    return value.with_dims(dims) if not rest else value.spread_out(shape)


def as_sizes(dim: Dim, sizes: tuple[int, ...]) -> tuple[Dim, ...] | None:
    """A dimension as several of these sizes; None where it doesn't split that way."""
    if math.prod(sizes) != dim_size(dim):
        return None
    seen = reshape(Value("data", (dim,)), sizes)
    return None if seen.spread else seen.dims


def fitted(dim: Dim, sizes: tuple[int, ...]) -> Dim | None:
    """A dimension with factors of these sizes; None where it has no such factors."""
    if tuple(factor.size for factor in dim) == sizes:
        return dim
    parts = as_sizes(dim, sizes)
    return None if parts is None or any(len(part) != 1 for part in parts) else tuple(part[0] for part in parts)


def split_factor(factor: Factor, outer: int) -> tuple[Factor, Factor] | None:
    """A factor of size outer * inner as two; None if it has no such size, or a run ends within an inner one."""
    inner, rest = divmod(factor.size, outer)
    if rest:
        return None
    above: list[Run] = []
    below: dict[Run, None] = {}
    for run in factor.runs:
        first, begin = divmod(run.offset, inner)
        if begin == 0 and run.size % inner == 0:
            above.append(run._replace(stride=run.stride * inner, offset=first, size=run.size // inner))
            below[Run(run.axis, 0, run.stride, 0, inner, run.strand)] = None
        elif begin + run.size <= inner:
            above.append(run._replace(stride=0, offset=first, size=1))
            below[Run(run.axis, 0, run.stride, begin, run.size, run.strand)] = None
        else:
            return None
    if not factor.whole() and len({run.thread for run in below}) < len(below):
        return None
    low = tuple(run for run in below if run.stride or run.size < inner)
    return replace(factor, size=outer, runs=tuple(above)), replace(factor, size=inner, runs=low)


def _joined(dim: list[Factor]) -> Dim:
    """Neighbouring factors of one run become one factor again."""
    joined: list[Factor] = []
    for factor in dim:
        last = joined[-1] if joined else None
        if last is not None and (both := _merged(last, factor)) is not None:
            joined[-1] = both
        else:
            joined.append(factor)
    return tuple(joined)


def _merged(outer: Factor, inner: Factor) -> Factor | None:
    """The one factor that the two are, if they step through the same axes; None otherwise."""
    below = {run.thread: run for run in inner.runs}
    same_kind = outer.feature == inner.feature and outer.picked == inner.picked
    if not same_kind or len(below) < len(inner.runs) or not inner.whole():
        return None
    runs = []
    for run in outer.runs:
        low = below.get(run.thread) or Run(run.axis, 0, 0, 0, inner.size, run.strand)
        if run.stride != low.stride * inner.size and run.size > 1:
            return None
        runs.append(Run(run.axis, run.start + low.start, low.stride, run.offset * inner.size, run.size * inner.size,
                        run.strand))  # fmt: skip
    if below.keys() - {run.thread for run in outer.runs}:
        return None
    return replace(outer, size=outer.size * inner.size, runs=tuple(runs))
