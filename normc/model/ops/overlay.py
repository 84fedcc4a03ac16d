"""Values that meet entry by entry: their dimensions lie over each other."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from normc.model.ops.reshaping import fitted
from normc.model.ops.strands import folded
from normc.model.ops.value import (
    Axis,
    Dim,
    Factor,
    Run,
    Value,
    dim_size,
    fresh_dim,
    is_feature,
    merge,
    plain,
    source_axis,
)
from normc.model.trace.graph import shape_of
from normc.nodes import op_name


def broadcast(values: list[Value], shape: tuple[int, ...]) -> tuple[Dim, ...]:
    """The dimensions of an elementwise result: at each place the runs of all operands that have that size there."""
    dims: list[Dim] = []
    for place, size in enumerate(shape):
        there: list[Dim] = []
        for value in values:
            index = place - (len(shape) - len(value.dims))
            if index >= 0 and dim_size(value.dims[index]) == size:
                there.append(value.dims[index])
        dims.append(overlaid(there, size))
    return tuple(dims)


def overlaid(there: list[Dim], size: int) -> Dim:
    """Dimensions of one size that lie over each other, as one with the runs of all."""
    if size == 1 or not there:
        return fresh_dim(size)
    if all(dim is there[0] for dim in there):
        return there[0]
    carriers = [dim for dim in there if any(factor.runs for factor in dim)] or there
    finest = max(carriers, key=len)
    sizes = tuple(factor.size for factor in finest)
    same = [dim for dim in (fitted(dim, sizes) for dim in carriers) if dim is not None]
    feature = any(is_feature(dim) for dim in there)
    dim = []
    for place, factor in enumerate(finest):
        runs = tuple(dict.fromkeys(run for other in same for run in other[place].runs))
        picked = max((other[place].picked for other in same), default=factor.picked)
        repeated = not runs and all(other[place].repeated for other in same)
        dim.append(replace(factor, runs=runs, feature=factor.feature or feature, picked=picked, repeated=repeated))
    return tuple(dim)


def united(values: list[Value], shape: tuple[int, ...], touched: bool) -> Value:
    """An activation made of all of `values`' entries, at their places: spread, unless the runs say the same."""
    if any(value.offsets != values[0].offsets for value in values):
        values = [folded(value) for value in values]
    union: dict[Axis, list[tuple[int, int]]] = {}
    for value in values:
        for axis, spans in value.origins().items():
            union.setdefault(axis, []).extend(spans)
    spread = {axis: merge(spans) for axis, spans in union.items()}
    first, dims = values[0], broadcast(values, shape)
    summed = first.summed if all(value.summed == first.summed for value in values) else ()
    exact = Value("data", dims, offsets=first.offsets, summed=summed, touched=touched)
    same = all(value.offsets == first.offsets and not value.spread for value in values)
    if same and exact.origins() == spread:
        return exact
    return Value("data", tuple(plain(dim) for dim in dims), spread=spread, touched=touched)


def varying(dim: Dim, place: int, data: list[tuple[fx.Node, Value]], shape: tuple[int, ...]) -> Dim:
    """A weight's dimension, which runs along every activation that isn't the same everywhere along it."""
    size = shape[place]
    for node, value in data:
        own = place - (len(shape) - len(value.dims))
        if size < 2 or own < 0 or dim_size(value.dims[own]) != size or _repeats(node, value, own):
            continue
        axis, feature = source_axis(node, own), is_feature(value.dims[own])
        rest, grown = size, []
        for factor in dim or (Factor(size),):
            rest //= factor.size
            run = Run(axis, 0, rest, 0, factor.size)
            grown.append(replace(factor, runs=(*factor.runs, run), feature=factor.feature or feature))
        dim = tuple(grown)
    return dim


def _repeats(node: fx.Node, value: Value, place: int) -> bool:
    """Whether an activation was expanded along a dimension."""
    if op_name(node) not in ("aten.expand", "aten.expand_as", "aten.broadcast_to"):
        return False
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    own = place - (len(after) - len(before))
    return after == value.shape and (own < 0 or before[own] == 1)
