"""Ops that put tensors beside each other: cat, stack, scatters and writes through views."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.reshaping import reshape
from normc.model.ops.strands import beside
from normc.model.ops.value import Axis, Dim, Factor, Run, Value, dim_size, fresh_dim, is_feature, plain
from normc.model.ops.views import place
from normc.plans.row import AxisUse

_MOST_AXES = 8
# Along which dimension an op joins that isn't told.
_ALONG = {"aten.hstack": 1, "aten.column_stack": 1, "aten.dstack": 2}


@rule(
    "aten.cat", "aten.concat", "aten.concatenate", "aten.hstack", "aten.vstack", "aten.row_stack", "aten.column_stack",
    "aten.dstack",
)  # fmt: skip
def cat(call: Call) -> Result:
    parts = call.node.args[0]
    assert isinstance(parts, (list, tuple))
    nodes = [node for node in parts if isinstance(node, fx.Node) and 0 not in call.value(node).shape]
    values = [_of_rank(call.name, call.value(node), len(call.shape)) for node in nodes]
    if not values:
        return Value("constant", tuple(fresh_dim(size) for size in call.shape))
    named = min(_ALONG.get(call.name, 0), len(call.shape) - 1)
    index = place(int(call["dim"] or named), len(call.shape))
    if any(value.kind == "data" for value in values):
        return _cat_data(call, nodes, values, index)
    if all(value.kind == "constant" for value in values):
        return Value("constant", tuple(fresh_dim(size) for size in call.shape))
    return _cat_weights(values, index, call.shape)


def _of_rank(name: str, value: Value, rank: int) -> Value:
    """An operand with as many dimensions as the result: a vector is a row, or a column."""
    missing = rank - len(value.dims)
    column = name == "aten.column_stack" or (name == "aten.dstack" and value.dims[1:])
    shape = (
        (*value.shape, *(1,) * missing) if column else (*(1,) * min(missing, 1), *value.shape, *(1,) * (missing - 1))
    )
    return reshape(value, shape) if missing else value


def _cat_weights(values: list[Value], index: int, shape: tuple[int, ...]) -> Value:
    """Several weights as one operand: along `index` each keeps its own stretch; elsewhere they lie over each other."""
    dims: list[Dim] = []
    for place_, size in enumerate(shape):
        if place_ == index:
            dims.append(_stretches([value.dims[place_] for value in values], size))
        else:
            dims.append(_overlay([value.dims[place_] for value in values], size))
    weights = [value for value in values if value.kind == "weight"]
    return Value(
        "weight", tuple(dims), frozenset().union(*(w.parameters for w in weights)),
        {axis: offset for w in weights for axis, offset in w.offsets.items()},
        {axis: spans for w in weights for axis, spans in w.spread.items()},
        tuple(inner for w in weights for inner in w.inner),
        via=tuple(dict.fromkeys(step for w in weights for step in w.via)),
        lost=next((w.lost for w in weights if w.lost), ""),
    )  # fmt: skip


def _stretches(dims: list[Dim], size: int) -> Dim:
    runs: list[Run] = []
    start = 0
    for dim in dims:
        length = dim_size(dim)
        if len(dim) == 1:
            runs += [run._replace(offset=run.offset + start) for run in dim[0].runs]
        else:
            runs += [Run(run.axis, 0, 1, start, length) for factor in dim for run in factor.runs]
        start += length
    return (Factor(size, tuple(runs), any(is_feature(dim) for dim in dims)),) if size != 1 else ()


def _overlay(dims: list[Dim], size: int) -> Dim:
    if size == 1:
        return ()
    sizes = [factor.size for factor in dims[0]]
    same = [dim for dim in dims if [factor.size for factor in dim] == sizes]
    return tuple(
        replace(factor, runs=tuple(dict.fromkeys(run for dim in same for run in dim[i].runs)))
        for i, factor in enumerate(dims[0])
    )


def _cat_data(call: Call, nodes: list[fx.Node], values: list[Value], index: int) -> Value:
    """A weight beside an activation is a token. What is put together stays itself, as far as it can be followed."""
    data = _meet_tokens(call, nodes, values)
    if _followed(data, any(is_feature(value.dims[index]) for value in data)):
        return beside(values, index, call.shape, call.node.name)
    for slot, node in enumerate(nodes):
        call.consume(node, slot)
    if 0 < len(_all_axes(data)) <= _MOST_AXES:
        return beside(values, index, call.shape, call.node.name, closed=True)
    dims: list[Dim] = []
    for i, size in enumerate(call.shape):
        there = [value.dims[i] for value in data]
        feature = any(is_feature(dim) for dim in there)
        dims.append(
            fresh_dim(size, feature)
            if i == index
            else plain(next((d for d in there if dim_size(d) == size), fresh_dim(size)))
        )
    return Value("data", tuple(dims), touched=any(value.touched or value.kind == "weight" for value in values))


def _meet_tokens(call: Call, nodes: list[fx.Node], values: list[Value]) -> list[Value]:
    """The activations among operands; every weight among them meets the first."""
    host = next(node for node, value in zip(nodes, values, strict=True) if value.kind == "data")
    for value in values:
        if value.kind == "weight":
            meet_token(call, value, host)
    return [value for value in values if value.kind == "data"]


def _followed(data: list[Value], features: bool) -> bool:
    """Whether what lies beside each other is followed further: it is of one origin, or lies along no features.

    Features of different origins are what their next op sees together: they end here.
    """
    if not features:
        return 0 < len(_all_axes(data)) <= _MOST_AXES
    axes = [value.axes() for value in data if value.touched]
    return bool(axes) and 0 < len(axes[0]) <= _MOST_AXES and all(own == axes[0] for own in axes)


def _all_axes(data: list[Value]) -> set[Axis]:
    return set[Axis]().union(*(value.axes(closed=True) for value in data))


def meet_token(call: Call, weight: Value, data: fx.Node) -> None:
    """A weight that becomes entries of an activation: the axis it is joined along is an index, features are fan-out."""
    other = call.value(data)
    uses: list[AxisUse] = []
    features = [is_feature(dim) for dim in other.dims]
    lead = len(other.dims) - len(weight.dims)
    for i, dim in enumerate(weight.dims):
        spot = i + lead
        last = i == len(weight.dims) - 1
        feature = features[spot] if 0 <= spot < len(features) and any(features) else last
        uses.append("none" if dim_size(dim) == 1 else "out" if feature else "index")
    call.meet(weight, uses, "join", data)


@rule("aten.stack")
def stack(call: Call) -> Result:
    parts = call.node.args[0]
    assert isinstance(parts, (list, tuple))
    nodes = [node for node in parts if isinstance(node, fx.Node)]
    index = place(int(call["dim"] or 0), len(call.shape))
    values = [call.value(node) for node in nodes]
    grown = [value.with_dims((*value.dims[:index], (), *value.dims[index:])) for value in values]
    if all(value.kind == "constant" for value in values):
        return Value("constant", tuple(fresh_dim(size) for size in call.shape))
    if any(value.kind == "data" for value in values):
        return _stack_data(call, nodes, grown, index)
    return _cat_weights(grown, index, call.shape)


def _stack_data(call: Call, nodes: list[fx.Node], values: list[Value], index: int) -> Value:
    data = _meet_tokens(call, nodes, values)
    if _followed(data, features=True):
        return beside(values, index, call.shape, call.node.name)
    for slot, node in enumerate(nodes):
        call.consume(node, slot)
    dims = [fresh_dim(size, is_feature(values[0].dims[i])) for i, size in enumerate(call.shape)]
    return Value("data", tuple(dims), touched=any(v.touched or v.kind == "weight" for v in values))


@rule(
    "aten.index_put", "aten.index_add", "aten.scatter", "aten.scatter_add", "aten.masked_scatter",
    "aten.slice_scatter", "aten.select_scatter", "aten.index_copy", "aten._index_put_impl", "aten.scatter_reduce",
    "aten.copy", "aten.set_data", "effects.after_write", "aten._unsafe_index_put", "aten.index_fill",
    "aten.index_reduce",
)  # fmt: skip
def write(call: Call) -> Result:
    """Entries of one tensor written into another: the axes of the target; a weight written in is a token."""
    nodes = call.operands
    values = [call.value(node) for node in nodes]
    base = values[0]
    kinds = {value.kind for value in values}
    if kinds == {"constant"}:
        return Value("constant", tuple(fresh_dim(size) for size in call.shape))
    if "data" not in kinds:
        return _written([value for value in values if value.kind == "weight"], call)
    _meet_tokens(call, nodes, values)
    touched = any(value.touched or value.kind == "weight" for value in values)
    if (filled := _filled(values, call.shape)) is not None:
        return replace(filled, touched=touched)
    for slot, node in enumerate(nodes[1:], 1):
        call.consume(node, slot)
    if base.kind == "data" and base.axes() and all(v.axes() in (base.axes(), set()) for v in values):
        return replace(base, touched=touched) if base.shape == call.shape else base.spread_out(call.shape, True)
    call.consume(nodes[0], 0)
    shaped = base if base.shape == call.shape else next((v for v in values if v.shape == call.shape), None)
    alike = [value for value in values if len(value.dims) == len(call.shape)]
    features = [any(is_feature(value.dims[i]) for value in alike) for i in range(len(call.shape))]
    if shaped is None:
        return Value(
            "data",
            tuple(fresh_dim(size, i == len(call.shape) - 1) for i, size in enumerate(call.shape)),
            touched=touched,
        )
    return Value("data", tuple(fresh_dim(size, features[i]) for i, size in enumerate(call.shape)), touched=touched)


def _written(weights: list[Value], call: Call) -> Value:
    """Weights written into another or into a constant: its axes, if there is one and it has the result's shape."""
    names = frozenset[str]().union(*(weight.parameters for weight in weights))
    if len(names) == len(weights[0].parameters) and weights[0].shape == call.shape:
        return weights[0]
    via = tuple(dict.fromkeys(step for weight in weights for step in weight.via))
    return Value("weight", tuple(fresh_dim(size) for size in call.shape), names, via=via, lost=call.name)


@rule("aten.block_diag")
def block_diagonal(call: Call) -> Result:
    """Matrices along the diagonal: each keeps its own stretch of the rows and of the columns."""
    values = [call.value(node) for node in call.operands]
    if any(value.kind == "data" or len(value.dims) != 2 for value in values):
        for slot, (node, value) in enumerate(zip(call.operands, values, strict=True)):
            if value.kind == "weight":
                call.meet(value, ["none"] * len(value.dims), "unknown", node)
            call.consume(node, slot)
        return Value("data", tuple(fresh_dim(size, True) for size in call.shape), touched=True)
    rows = _cat_weights(values, 0, (call.shape[0], values[0].shape[1]))
    dims = [_stretches([value.dims[i] for value in values], size) for i, size in enumerate(call.shape)]
    return rows.with_dims(dims)


def _filled(values: list[Value], shape: tuple[int, ...]) -> Value | None:
    """A cache that one activation is written into: the activation's runs, along all that it fills. None if unsure."""
    written = [value for value in values[1:] if value.kind == "data" and value.axes()]
    if values[0].axes() or len(written) != 1 or len(written[0].dims) != len(shape):
        return None
    dims = [dim if dim_size(dim) == size else plain(base)
            for dim, base, size in zip(written[0].dims, values[0].dims, shape, strict=True)]  # fmt: skip
    filled = written[0].with_dims(dims)
    return filled if filled.shape == shape and filled.origins() == written[0].origins() else None
