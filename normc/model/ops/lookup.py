"""Lookups: rows of a table by index. The looked-up axis is an index, the rest is fan-out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, fx

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.places import is_position_index
from normc.model.ops.slices import cut
from normc.model.ops.value import Axis, Dim, Run, Value, as_feature, fresh_dim, is_feature
from normc.model.ops.views import place
from normc.model.trace.graph import shape_of
from normc.nodes import op_name
from normc.plans.row import AxisUse


@rule("aten.embedding")
def embedding(call: Call) -> Result:
    return _look_up(call, call["weight"], 0, call["indices"])


@rule("aten.index_select")
def index_select(call: Call) -> Result:
    return _look_up(call, call.first(), int(call["dim"]), call["index"])


@rule("aten.embedding_bag", "aten._embedding_bag")
def embedding_bag(call: Call) -> Result:
    table = call.value(call["weight"])
    call.meet(table, ["index", "out"], "lookup", call["indices"])
    dims = (*(fresh_dim(size) for size in call.shape[:-1]), as_feature(table.dims[-1]))
    rest = [Value("constant", tuple(fresh_dim(n) for n in shape)) for shape in call.shapes[1:]]
    result = Value("data", dims, touched=True)
    return [result, *rest] if rest else result


def _look_up(call: Call, table_node: Any, dim: int, index_node: Any) -> Result:
    table, index = call.value(table_node), call.value(index_node)
    dim = place(dim, len(table.dims))
    if table.kind != "weight":
        call.consume(index_node, 1)
        if any(run.stride for factor in table.dims[dim] for run in factor.runs):
            return _picked_entries(call, table, dim, index_node)
        width = len(call.shape) - len(table.dims) + 1
        picked = [fresh_dim(size) for size in call.shape[dim : dim + width]]
        kept = table.with_dims((*table.dims[:dim], *picked, *table.dims[dim + 1 :]))
        found = kept if kept.shape == call.shape else table.spread_out(call.shape, feature=True)
        if index.kind != "data":
            return found
        return replace(found, kind="data", touched=table.touched or index.touched)
    if call.name != "aten.embedding" and table.shape == call.shape and _in_order(index_node, table.shape[dim]):
        return table
    return picked_weight(call, table, dim, index_node)


def _in_order(index_node: Any, size: int) -> bool:
    """Whether a constant index picks every entry once, in order."""
    concrete = index_node.meta.get("concrete") if isinstance(index_node, fx.Node) else None
    return isinstance(concrete, Tensor) and concrete.dtype != torch.bool and concrete.tolist() == list(range(size))


def _picked_entries(call: Call, table: Value, dim: int, index_node: Any) -> Value:
    """Entries of an activation's axis by index: a slice where the index is known and steps evenly, else spread."""
    concrete = index_node.meta.get("concrete") if isinstance(index_node, fx.Node) else None
    if isinstance(concrete, Tensor) and concrete.dtype == torch.bool:
        concrete = concrete.nonzero()[:, 0]
    if isinstance(concrete, Tensor) and concrete.dim() == 1 and concrete.numel():
        size = table.shape[dim]
        picks = [int(pick) % size for pick in concrete.tolist()]
        step = picks[1] - picks[0] if len(picks) > 1 else 1
        if step > 0 and picks == list(range(picks[0], picks[-1] + 1, step)):
            return cut(table, dim, picks[0], len(picks), step)
    return table.spread_out(call.shape, feature=any(factor.feature for factor in table.dims[dim]))


def picked_weight(call: Call, table: Value, dim: int, index_node: Any) -> Value:
    """Rows of a weight. By an index from the inputs it is an activation now; by a constant one it is still a weight.

    By an index that other weights have computed (a router's choice) it is a stack of weights, of which some are chosen.
    """
    index = call.value(index_node)
    size = call.shape
    width = len(size) - (len(table.dims) - 1)
    if index.kind == "data" and index.touched and call.name != "aten.embedding":
        return _picked(table, dim, size[dim : dim + width], "block")
    if index.kind == "data":
        uses = ["index" if i == dim else "out" for i in range(len(table.dims))]
        varying = not is_position_index(call, index_node)
        call.meet(table, uses, "lookup", index_node, varying=varying)  # type: ignore[arg-type]  # literals above
        rest = [as_feature(d) for i, d in enumerate(table.dims) if i != dim]
        lead = tuple(fresh_dim(n) for n in size[dim : dim + width])
        dims = (*rest[:dim], *lead, *rest[dim:])
        made = call.stack(_picked(table, dim, size[dim : dim + width], "block"))
        return Value("data", dims, offsets=table.offsets, spread=table.spread, touched=True, made=made)
    if all_same(index_node, least=1 if call.name == "aten.embedding" else 2):
        uses = ["index" if i == dim else "out" for i in range(len(table.dims))]
        varying = not _counting(index_node)
        call.meet(table, uses, "lookup", index_node, varying=varying)  # type: ignore[arg-type]  # literals above
        dims = (*table.dims[:dim], *(fresh_dim(n) for n in size[dim : dim + width]), *table.dims[dim + 1 :])
        return Value("data", tuple(as_feature(d) if i >= dim + width else d for i, d in enumerate(dims)), touched=True)
    return _picked(table, dim, size[dim : dim + width], "index")


def _picked(table: Value, dim: int, sizes: tuple[int, ...], use: Literal["index", "block"]) -> Value:
    """Still a weight: the picked places run along the table's axis, in an order that doesn't matter."""
    places = picked_dims(table.dims[dim], sizes, use)
    picked = replace(table, dims=(*table.dims[:dim], *places, *table.dims[dim + 1 :]))
    if math.prod(sizes) != 1:
        return picked
    return replace(
        picked, offsets={**table.offsets, **{run.axis: 0 for factor in table.dims[dim] for run in factor.runs}}
    )


def picked_dims(dim: Dim, sizes: tuple[int, ...], use: Literal["index", "block"]) -> tuple[Dim, ...]:
    """Dimensions of these sizes whose places were picked from `dim`."""
    axes: list[Axis] = [run.axis for factor in dim for run in factor.runs]
    found: list[Dim] = []
    for size in sizes:
        marked = [
            replace(factor, runs=tuple(Run(axis, 0, 1, 0, size) for axis in axes), picked=use)
            for factor in fresh_dim(size)
        ]
        found.append(tuple(marked))
    return tuple(found)


def all_same(node: Any, least: int = 2) -> bool:
    """Whether a constant index is known, and the same everywhere (a default token type): it is no position.

    `least`: how many entries it must have to say so; one entry of an explicit lookup serves all places.
    """
    concrete = node.meta.get("concrete") if isinstance(node, fx.Node) else None
    return concrete is not None and concrete.numel() >= least and _one_value(concrete)


def _one_value(index: Tensor) -> bool:
    return bool((index == index.reshape(-1)[0]).all())


_COUNTS = ("aten.arange", "aten.cumsum")
_READS = ("aten.gather", "aten.index", "aten.index_select", "aten.take_along_dim")  # whose index counts no values


def _counting(node: fx.Node) -> bool:
    """Whether a constant index is made of what counts, or of a stored index that has several values: then one value of
    it is a place, of an example of one token.
    """
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        here = waiting.pop()
        name = op_name(here)
        if here in seen or name.endswith("_like") or name.startswith("aten.new_"):  # made of a shape alone
            continue
        seen.add(here)
        stored = here.meta.get("concrete") if here.op == "placeholder" else None
        if name in _COUNTS or (isinstance(stored, Tensor) and stored.numel() > 1 and not _one_value(stored)):
            return True
        waiting += here.all_input_nodes[:1] if name in _READS else here.all_input_nodes
    return False


@rule("aten.index", "aten._unsafe_index")
def index(call: Call) -> Result:
    """x[i, j, ...] with tensors: one index is a lookup along its dimension; several pick entries."""
    table_node, indices = call.node.args[:2]
    assert isinstance(table_node, fx.Node) and isinstance(indices, (list, tuple))
    table = call.value(table_node)
    picks = [(dim, node) for dim, node in enumerate(indices) if node is not None]
    masked = any(_is_mask(node) for _, node in picks)
    if len(picks) == 1 and (not masked or (table.kind == "data" and _rank(picks[0][1]) == 1)):
        return _look_up(call, table_node, picks[0][0], picks[0][1])
    if table.kind == "data":
        return _entries(call, table, [_rank(node) if node is not None and _is_mask(node) else int(node is not None)
                                      for node in indices], [node is None for node in indices])  # fmt: skip
    if table.kind == "constant":
        kind = "data" if any(call.value(node).kind == "data" for _, node in picks) else "constant"
        return Value(kind, tuple(fresh_dim(n) for n in call.shape))  # type: ignore[arg-type]  # literals above
    varying = any(call.value(node).kind == "data" for _, node in picks)
    if not varying:
        return _picked_together(call, table, picks, "index")
    dims = {dim for dim, _ in picks}
    call.meet(table, ["index" if i in dims else "out" for i in range(len(table.dims))], "lookup", picks[0][1])
    chosen = _picked_together(call, table, picks, "block")
    return Value("data", tuple(fresh_dim(n) for n in call.shape), touched=True, made=call.stack(chosen))


def _entries(call: Call, table: Value, widths: Sequence[int], free: Sequence[bool]) -> Value:
    """Entries of an activation by several indices, or a mask of several dimensions: the other dimensions stay.

    The picked ones take the place of the first, or come first of all if others lie between them.
    """
    kept: list[int] = []
    picked: list[int] = []
    for width, stays in zip(widths, free, strict=True):
        at = len(kept) + len(picked)
        (kept if stays else picked).extend(range(at, at + (1 if stays else width)))
    kept += range(len(kept) + len(picked), len(table.dims))
    if any(run.stride for i in picked for factor in table.dims[i] for run in factor.runs):
        return table.spread_out(call.shape, feature=True)
    first = picked[0] if picked[-1] - picked[0] + 1 == len(picked) else 0
    width = len(call.shape) - len(kept)
    dims = [table.dims[i] for i in kept]
    dims[first:first] = [fresh_dim(size) for size in call.shape[first : first + width]]
    found = table.with_dims(dims)
    return found if found.shape == call.shape else table.spread_out(call.shape, feature=True)


def _rank(node: Any) -> int:
    return len(shape_of(node))


def _picked_together(
    call: Call, table: Value, picks: list[tuple[int, fx.Node]], use: Literal["index", "block"]
) -> Value:
    """w[i, j] by constant indices is still a weight: its places run along both axes. Lost where they lie apart."""
    first, last = picks[0][0], picks[-1][0]
    width = len(call.shape) - (len(table.dims) - len(picks))
    if last - first + 1 != len(picks) or any(_is_mask(node) for _, node in picks):
        return replace(table.spread_out(call.shape), lost=call.name)
    along = tuple(factor for dim, _ in picks for factor in table.dims[dim])
    places = picked_dims(along, call.shape[first : first + width], use)
    return table.with_dims((*table.dims[:first], *places, *table.dims[last + 1 :]))


def _is_mask(node: Any) -> bool:
    val = node.meta.get("val") if isinstance(node, fx.Node) else None
    return val is not None and str(val.dtype) == "torch.bool"


@rule("aten.gather", "aten.take_along_dim")
def gather(call: Call) -> Result:
    table = call.value(call.first())
    if table.kind == "weight":
        dim = place(int(call["dim"]), len(table.dims))
        rest = [(n, m) for i, (n, m) in enumerate(zip(table.shape, call.shape, strict=True)) if i != dim]
        if call.value(call["index"]).kind == "constant" and all(n == m for n, m in rest):
            return picked_weight(call, table, dim, call["index"])
        uses: list[AxisUse] = ["index" if i == dim else "block" if i < dim else "out" for i in range(len(table.dims))]
        call.meet(table, uses, "lookup", call["index"])
        chosen = _picked(table, dim, call.shape[dim : dim + 1], "block")
        made = call.stack(chosen) if all(n == m for n, m in rest) else ()
        return Value("data", tuple(fresh_dim(n) for n in call.shape), touched=True, made=made)
    if (picked := _gathered(call, table)) is not None:
        return picked
    rearranged = table.spread_out(call.shape)
    return rearranged.with_dims(fresh_dim(n, is_feature(d)) for n, d in zip(call.shape, table.dims, strict=True))


def _gathered(call: Call, table: Value) -> Value | None:
    """Places of an activation that were picked for each entry of the rest; None if features lie there."""
    if len(table.dims) != len(call.shape) or not isinstance(call["dim"], int):
        return None
    dim = place(call["dim"], len(table.dims))
    if any(factor.runs for factor in table.dims[dim]):
        return None
    kept = table.with_dims((*table.dims[:dim], fresh_dim(call.shape[dim], is_feature(table.dims[dim])),
                            *table.dims[dim + 1 :]))  # fmt: skip
    for i, size in enumerate(call.shape):
        kept = cut(kept, i, 0, size) if size < kept.shape[i] else kept
    return kept if kept.shape == call.shape else None
