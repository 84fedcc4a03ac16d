"""Values that lie beside each other after a cat or a stack: each is a strand of the result and keeps its own runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from normc.model.ops.reshaping import as_sizes, fitted
from normc.model.ops.value import (
    Axis,
    Dim,
    Factor,
    Run,
    Spans,
    Thread,
    Value,
    dim_size,
    fresh_dim,
    is_feature,
    merge,
    plain,
)

_MOST_RUNS = 256


def folded(value: Value) -> Value:
    """The same entries; a run of its axis starts later instead of an offset, where the axis has a run."""
    left = dict(value.offsets)
    dims: list[Dim] = []
    for dim in reversed(value.dims):
        factors: list[Factor] = []
        for factor in reversed(dim):
            here = {run.axis for run in factor.runs if not run.strand and run.axis in left}
            runs = tuple(run._replace(start=run.start + left[run.axis]) if run.axis in here else run
                         for run in factor.runs)  # fmt: skip
            factors.insert(0, replace(factor, runs=runs))
            left = {axis: offset for axis, offset in left.items() if axis not in here}
        dims.insert(0, tuple(factors))
    return replace(value, dims=tuple(dims), offsets=left)


def beside(values: Sequence[Value], index: int, shape: tuple[int, ...], name: str, closed: bool = False) -> Value:
    """Values in a row along dimension `index`, as an activation; `name` makes their strands' names unique.

    Where there is no room for all runs, the entries are spread, or forgotten if their strands are closed.
    """
    values = [folded(value) if value.kind == "data" else _bare(value) for value in values]
    touched = any(value.touched for value in values)
    dim = _continued(values, index)
    if dim is not None and not closed:
        return replace(values[0].with_dims(_with(values[0], index, dim)), touched=touched)
    strands = [_strand(value, f"{name}.{slot}", closed) for slot, value in enumerate(values)]
    row = in_a_row([(strand.dims[index], frozenset(strand.threads())) for strand in strands], shape[index])
    dims = [row if i == index else over_each_other([s.dims[i] for s in strands], n) for i, n in enumerate(shape)]
    whole = tuple(dim for dim in dims if dim is not None)
    if len(whole) < len(dims) or any(len(factor.runs) > _MOST_RUNS for dim in whole for factor in dim):
        return _spread([_bare(value) for value in values] if closed else values, shape, touched)
    summed = tuple(factor for strand in strands for factor in strand.summed)
    spread = {} if closed else _union(strand.spread for strand in strands)
    return Value("data", whole, spread=spread, summed=summed, touched=touched)


def _bare(value: Value) -> Value:
    """Entries that aren't followed: a token's, a constant's."""
    return Value("data", tuple(plain(dim) for dim in value.dims), touched=value.touched or value.kind == "weight")


def _with(value: Value, index: int, dim: Dim) -> tuple[Dim, ...]:
    return (*value.dims[:index], dim, *value.dims[index + 1 :])


def _continued(values: list[Value], index: int) -> Dim | None:
    """The dimension of all, if each value goes on where the one before it stopped, or if it runs along nothing."""
    first = values[0]
    rest = [[_runs(dim) for place, dim in enumerate(value.dims) if place != index] for value in values]
    others = [(value.summed, value.offsets, dict(value.spread)) for value in values]
    if any(own != rest[0] for own in rest) or any(own != others[0] for own in others) or first.spread:
        return None
    dims = [value.dims[index] for value in values]
    size = sum(dim_size(dim) for dim in dims)
    if not any(factor.runs for dim in dims for factor in dim):
        return fresh_dim(size, is_feature(dims[0]))
    if any(len(dim) != 1 or len(dim[0].runs) != 1 or not dim[0].whole() for dim in dims):
        return None
    runs = [dim[0].runs[0] for dim in dims]
    at = runs[0].start
    for run in runs:
        if (run.thread, run.stride, run.start) != (runs[0].thread, runs[0].stride, at):
            return None
        at += run.size * run.stride
    return (replace(dims[0][0], size=size, runs=(runs[0]._replace(size=size),)),)


def _runs(dim: Dim) -> tuple[tuple[int, tuple[Run, ...]], ...]:
    return tuple((factor.size, factor.runs) for factor in dim)


def _strand(value: Value, name: str, closed: bool) -> Value:
    """The value on a strand of its own. What is left of its offsets is a single entry, in all of it."""
    mark = "!" if closed else ""

    def named(dim: Dim) -> Dim:
        return tuple(
            replace(f, runs=tuple(run._replace(strand=f"{mark}{run.strand}/{name}") for run in f.runs)) for f in dim
        )

    fixed = tuple(Factor(1, (Run(axis, offset, 0, 0, 1),)) for axis, offset in value.offsets.items())
    return replace(
        value, dims=tuple(named(dim) for dim in value.dims), summed=named((*value.summed, *fixed)), offsets={}
    )


def in_a_row(parts: Sequence[tuple[Dim, frozenset[Thread]]], size: int) -> Dim | None:
    """One dimension that holds the given ones one after the other; None if it takes too many runs.

    Every thread of a part leaves a mark where the part lies, if it doesn't run along it.
    """
    tail = next((dim[1:] for dim, _ in parts if len(dim) > 1 and any(factor.runs for factor in dim)), ())
    if tail and (dims := _of_rows(parts, tail, size)) is not None:
        return dims
    runs: list[Run] = []
    start = 0
    for dim, threads in parts:
        own = flat(dim)
        if own is None or len(runs) + len(own) > _MOST_RUNS:
            return None
        length = dim_size(dim)
        own += [Run(axis, 0, 0, 0, length, strand) for axis, strand in sorted(threads - {run.thread for run in own})]
        runs += [run._replace(offset=run.offset + start) for run in own]
        start += length
    row = Factor(size, tuple(runs), any(is_feature(dim) for dim, _ in parts))
    marked = [factor for dim, _ in parts for factor in dim if factor.picked]
    return (replace(row, picked=marked[0].picked) if marked else row,)


def _of_rows(parts: Sequence[tuple[Dim, frozenset[Thread]]], tail: Dim, size: int) -> Dim | None:
    """The same with the inner factors of `tail` left apart, where every part has rows of that form."""
    inner = dim_size(tail)
    split = [as_sizes(dim, (dim_size(dim) // inner, *(f.size for f in tail))) for dim, _ in parts]
    rows = [dims for dims in split if dims is not None]
    if len(rows) < len(parts):
        return None
    outer = in_a_row([(dims[0], threads) for dims, (_, threads) in zip(rows, parts, strict=True)], size // inner)
    below = [over_each_other([dims[i + 1] for dims in rows], factor.size) for i, factor in enumerate(tail)]
    if outer is None or any(dim is None for dim in below):
        return None
    return (*outer, *(factor for dim in below if dim is not None for factor in dim))


def flat(dim: Dim) -> list[Run] | None:
    """Runs of a dimension's factors as runs of one factor; None if they are too many."""
    if not dim:
        return []
    found, size = list(dim[-1].runs), dim[-1].size
    for factor in reversed(dim[:-1]):
        threads = {run.thread for run in factor.runs}
        fixed = [run for run in found if run.thread not in threads]
        if len(fixed) * factor.size > _MOST_RUNS:
            return None
        grown = [run._replace(offset=i * size + run.offset) for i in range(factor.size) for run in fixed]
        for run in factor.runs:
            own = [low for low in found if low.thread == run.thread] or [Run(run.axis, 0, 0, 0, size, run.strand)]
            if run.size * len(own) > _MOST_RUNS:
                return None
            grown += [low._replace(start=run.start + i * run.stride + low.start,
                                   offset=(run.offset + i) * size + low.offset)
                      for i in range(run.size) for low in own]  # fmt: skip
        found, size = grown, size * factor.size
    return found


def over_each_other(dims: Sequence[Dim], size: int) -> Dim | None:
    """One dimension with the runs of all, in the finest of their factors; None if they don't fit each other."""
    if size == 1:
        factors = [factor for dim in dims for factor in dim if factor.runs]
        return (Factor(1, tuple(run for factor in factors for run in factor.runs)),) if factors else ()
    carriers = [dim for dim in dims if any(factor.runs for factor in dim)] or list(dims[:1])
    finest = max(carriers, key=len)
    sizes = tuple(factor.size for factor in finest)
    over = [fitted(dim, sizes) for dim in carriers]
    if any(dim is None for dim in over):
        return None
    return tuple(
        replace(factor, runs=tuple(dict.fromkeys(run for dim in over if dim is not None for run in dim[i].runs)))
        for i, factor in enumerate(finest)
    )


def _union(found: Iterable[Mapping[Axis, Spans]]) -> dict[Axis, Spans]:
    union: dict[Axis, list[tuple[int, int]]] = {}
    for spans in found:
        for axis, own in spans.items():
            union.setdefault(axis, []).extend(own)
    return {axis: merge(own) for axis, own in union.items()}


def _spread(values: Sequence[Value], shape: tuple[int, ...], touched: bool) -> Value:
    features = [any(is_feature(value.dims[i]) for value in values) for i in range(len(shape))]
    dims = tuple(fresh_dim(size, feature) for size, feature in zip(shape, features, strict=True))
    return Value("data", dims, spread=_union(value.origins() for value in values), touched=touched)
