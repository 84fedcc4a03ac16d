"""Ops that sum, average, pool or pick over axes, or resize places: no weight's axis is mixed with another's."""

from __future__ import annotations

from dataclasses import replace

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.choosing import chooses
from normc.model.ops.slices import cut
from normc.model.ops.value import (
    Dim,
    Inner,
    Value,
    as_feature,
    dim_size,
    fresh_dim,
    is_feature,
    is_source,
    mixed,
    plain,
)
from normc.model.ops.views import place
from normc.nodes import op_name
from normc.plans.row import AxisUse


@rule(
    "aten.mean", "aten.sum", "aten.amax", "aten.amin", "aten.max", "aten.min", "aten.var", "aten.std", "aten.norm",
    "aten.linalg_vector_norm", "aten.logsumexp", "aten.prod", "aten.nansum", "aten.var_mean", "aten.std_mean",
    "aten.argmax", "aten.argmin", "aten.any", "aten.all", "aten.median", "aten.count_nonzero", "aten.topk",
    "aten.sort", "aten.argsort", "aten.cummax", "aten.aminmax", "aten.kthvalue", "aten.bincount", "aten.histc",
    "aten.trace", "aten.norm_except_dim", "aten.linalg_norm", "aten.frobenius_norm",
    "aten.linalg_matrix_norm", "aten.mode", "aten.msort", "aten.nanmedian", "aten.nanmean", "aten.nanquantile",
    "aten.quantile", "aten.sum_to_size",
)  # fmt: skip
def reduce(call: Call) -> Result:
    value = call.value(call.first())
    if value.kind == "weight" and call.name in ("aten.sum", "aten.mean", "aten.nansum", "aten.nanmean"):
        return _summed(call, value)
    if call.name == "aten.sum":
        _mix(call, value)
    results = [_reduced(value, shape, _gone(call, value, shape)) for shape in call.shapes]
    return results if len(results) > 1 else results[0]


def _mix(call: Call, value: Value) -> None:
    """A sum of shares times what they are shares of mixes it."""
    product = call.first()
    if op_name(product).rstrip("_") != "aten.mul" or len(product.all_input_nodes) != 2:
        return
    gone = _gone(call, value, call.shape)
    for operand, other in (product.all_input_nodes, product.all_input_nodes[::-1]):
        dims = call.value(operand).dims
        along = [dims[i] for i in gone] if len(dims) == len(value.dims) else []
        if any(factor.runs for dim in along for factor in dim) and chooses(call, other):
            for dim in along:
                call.mix(dim)


def _gone(call: Call, value: Value, shape: tuple[int, ...]) -> list[int]:
    """The dimensions that a reduction takes away, or makes one: those it names, else those that don't fit any more."""
    rank = len(value.dims)
    named = call["dim"]
    if len(shape) == rank:
        return [i for i, (before, after) in enumerate(zip(value.shape, shape, strict=True)) if before != after]
    if not shape:
        return list(range(rank))
    if isinstance(named, int) or named:
        return [place(int(i), rank) for i in (named if isinstance(named, (list, tuple)) else (named,))]
    gone, rest = [], list(shape)
    for i, size in enumerate(value.shape):
        if rest and rest[0] == size:
            rest.pop(0)
        else:
            gone.append(i)
    return gone


def _reduced(value: Value, shape: tuple[int, ...], gone: list[int]) -> Value:
    """What stays keeps its axes; what goes is summed."""
    kept = len(shape) == len(value.dims)
    dims = [fresh_dim(shape[i], is_feature(dim)) if i in gone else dim
            for i, dim in enumerate(value.dims) if kept or i not in gone]  # fmt: skip
    if tuple(map(dim_size, dims)) != shape:
        return value.spread_out(shape)
    lost = [factor for i in gone for factor in value.dims[i] if factor.runs]
    if value.kind == "data":
        return replace(value, dims=tuple(dims), summed=(*value.summed, *lost))
    names = {run.axis.parameter for factor in lost for run in factor.runs if not is_source(run.axis)}
    return replace(value, dims=tuple(dims), reduced=value.reduced | names)


def _summed(call: Call, weight: Value) -> Value:
    """A sum of a weight over a stack of it, or, of a product with an activation, over what both run along."""
    gone = _gone(call, weight, call.shape)
    result = _reduced(weight, call.shape, gone)
    uses = _uses(call, weight, gone)
    if uses is None:
        return replace(result, inner=(*weight.inner, *(inner for i in gone for inner in mixed(weight.dims[i]))))
    call.meet(weight, uses, "contract", call.host)
    along = [i for i in range(len(weight.dims)) if len(result.dims) == len(weight.dims) or i not in gone]
    dims = [as_feature(dim) if uses[i] == "out" else plain(dim) for i, dim in zip(along, result.dims, strict=True)]
    return Value("data", tuple(dims), offsets=weight.offsets, touched=True)


def _uses(call: Call, weight: Value, gone: list[int]) -> list[AxisUse] | None:
    """How a sum over the product of a weight and an activation uses the weight; None if no matrix sums them.

    What has no fan-out is a vector, whose products with features are summed over features alone: where samples are
    summed too (a loss), places, layers or experts are (shares), or two activations meet (a score), it is a gain that
    was summed up. A choice mixes matrices.
    """
    own = [any(not is_source(run.axis) for factor in dim for run in factor.runs) for dim in weight.dims]
    sources = [{run.axis.parameter for factor in dim for run in factor.runs if is_source(run.axis)}
               for dim in weight.dims]  # fmt: skip
    shared = [i for i in gone if own[i] and sources[i]]
    if shared and sum(own) - len(shared) > 1 and chooses(call, call.host):
        return None
    near = set[str]().union(*(sources[i] for i in shared))
    found: list[AxisUse] = ["in" if i in shared else "block" if i in gone or sources[i] & near else "out"
                            for i in range(len(weight.dims))]  # fmt: skip
    if any(use == "out" and there for use, there in zip(found, own, strict=True)):
        return found if shared else None
    alone = len(near) == 1 and not any(sources[i] for i in gone if i not in shared)
    features = {i for i, dim in enumerate(weight.dims) if is_feature(dim)}
    innermost = max((i for i, there in enumerate(own) if there), default=-1) in shared
    return found if alone and innermost and (not features or features & set(shared)) else None


@rule(
    "aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d",
    "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d", "aten.adaptive_max_pool1d",
    "aten.adaptive_max_pool2d", "aten._adaptive_avg_pool2d", "aten.max_pool2d_with_indices",
    "aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_bilinear2d", "aten.upsample_bicubic2d",
    "aten._upsample_bicubic2d_aa", "aten._upsample_bilinear2d_aa", "aten.upsample_linear1d",
    "aten.upsample_trilinear3d", "aten.max_pool1d_with_indices", "aten.upsample_nearest3d",
    "aten.upsample_nearest_exact2d", "aten.grid_sampler", "aten.grid_sampler_2d",
    "torchvision.roi_align", "torchvision.roi_pool",
)  # fmt: skip
def resize_places(call: Call) -> Result:
    """Pooling and interpolation: leading axes stay; a resized place stays a place of the parameter."""
    value = call.value(call.first())
    results = []
    for shape in call.shapes:
        dims = [d if dim_size(d) == n else resized(d, n) for d, n in zip(value.dims, shape, strict=False)]
        gone = [run for d, n in zip(value.dims, shape, strict=False) if n == 1 for factor in d for run in factor.runs]
        left = [Inner(run.axis, "index", 1) for run in gone if value.kind == "weight" and not is_source(run.axis)]
        result = replace(value, dims=tuple(dims), inner=(*value.inner, *left))
        results.append(result if result.shape == shape else value.spread_out(shape))
    return results if len(results) > 1 else results[0]


def resized(dim: Dim, size: int) -> Dim:
    """A dimension of another size along the same axes: places between its places, or frequencies."""
    if size == 1 or not dim:
        return fresh_dim(size)
    runs = tuple(run._replace(start=0, stride=min(1, run.stride), offset=0, size=size)
                 for factor in dim for run in factor.runs)  # fmt: skip
    return (replace(dim[0], size=size, runs=runs),)


@rule("aten.glu")
def glu(call: Call) -> Result:
    """a * sigmoid(b) of the two halves: each half ends here on its own."""
    value = call.value(call.first())
    index = place(int(call["dim"]), len(value.dims))
    half = value.shape[index] // 2
    for slot in (0, 1):
        call.consume_value(cut(value, index, slot * half, half), slot)
    shape = call.shape
    return Value(
        value.kind,
        tuple(fresh_dim(n, is_feature(d)) for n, d in zip(shape, value.dims, strict=True)),
        touched=value.touched,
    )
