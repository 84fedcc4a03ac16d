"""Ops that sum, average, pool or pick over axes, or resize places: no weight's axis is mixed with another's."""

from __future__ import annotations

from dataclasses import replace

from normc.ops.call import Call, Result, rule
from normc.ops.slices import cut
from normc.ops.value import Dim, Factor, Value, dim_size, fresh_dim, is_feature
from normc.ops.views import place


@rule(
    "aten.mean", "aten.sum", "aten.amax", "aten.amin", "aten.max", "aten.min", "aten.var", "aten.std", "aten.norm",
    "aten.linalg_vector_norm", "aten.logsumexp", "aten.prod", "aten.nansum", "aten.var_mean", "aten.std_mean",
    "aten.argmax", "aten.argmin", "aten.any", "aten.all", "aten.median", "aten.count_nonzero", "aten.topk",
    "aten.sort", "aten.argsort", "aten.cummax", "aten.aminmax", "aten.kthvalue", "aten.bincount", "aten.histc",
    "aten.trace", "aten.norm_except_dim", "aten.linalg_norm", "aten.frobenius_norm",
)  # fmt: skip
def reduce(call: Call) -> Result:
    value = call.value(call.first())
    results = [_reduced(value, shape) for shape in call.shapes]
    return results if len(results) > 1 else results[0]


def _reduced(value: Value, shape: tuple[int, ...]) -> Value:
    """Dimensions matched by place if the rank stayed, else in order by size; what goes is summed."""
    gone: list[Factor] = []
    dims: list[Dim] = []
    if len(shape) == len(value.dims):
        for dim, size in zip(value.dims, shape, strict=True):
            gone += dim if dim_size(dim) != size else ()
            dims.append(dim if dim_size(dim) == size else fresh_dim(size, is_feature(dim)))
    else:
        rest = list(value.dims)
        for size in shape:
            while rest and dim_size(rest[0]) != size:
                gone += rest.pop(0)
            dims.append(rest.pop(0) if rest else fresh_dim(size))
        gone += [factor for dim in rest for factor in dim]
    summed = tuple(factor for factor in gone if factor.runs) if value.kind == "data" else ()
    return replace(value, dims=tuple(dims), summed=(*value.summed, *summed))


@rule(
    "aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d",
    "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d", "aten.adaptive_max_pool1d",
    "aten.adaptive_max_pool2d", "aten._adaptive_avg_pool2d", "aten.max_pool2d_with_indices",
    "aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_bilinear2d", "aten.upsample_bicubic2d",
    "aten._upsample_bicubic2d_aa", "aten._upsample_bilinear2d_aa", "aten.upsample_linear1d",
    "aten.upsample_trilinear3d", "aten.max_pool1d_with_indices", "aten.upsample_nearest3d",
    "aten.upsample_nearest_exact2d", "aten.grid_sampler", "aten.grid_sampler_2d",
)  # fmt: skip
def resize_places(call: Call) -> Result:
    """Pooling and interpolation: leading axes stay; a resized place stays a place of the parameter."""
    value = call.value(call.first())
    results = []
    for shape in call.shapes:
        dims = [d if dim_size(d) == n else resized(d, n) for d, n in zip(value.dims, shape, strict=False)]
        result = replace(value, dims=tuple(dims))
        results.append(result if result.shape == shape else value.spread_out(shape))
    return results if len(results) > 1 else results[0]


def resized(dim: Dim, size: int) -> Dim:
    """A dimension of another size along the same axes: places between its places, or frequencies."""
    if size == 1 or not dim:
        return fresh_dim(size)
    runs = tuple(run._replace(start=0, stride=1, offset=0, size=size) for factor in dim for run in factor.runs)
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
