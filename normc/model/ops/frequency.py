"""Complex numbers and Fourier transforms: a dimension of real and imaginary parts, dimensions that become frequencies.

A complex matrix is two real ones, its real and its imaginary part, each with a norm of its own: in a product the
dimension that holds both numbers blocks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.reduction import resized
from normc.model.ops.value import Factor, Inner, Run, Value, fresh_dim, is_feature
from normc.model.ops.views import place


@rule("aten.view_as_complex", "aten.view_as_complex_copy")
def as_complex(call: Call) -> Result:
    """The last dimension, real and imaginary part, goes into the numbers."""
    value = call.value(call.first())
    *dims, pair = value.dims
    rest = value.with_dims(dims)
    if value.kind == "weight":
        runs = [run for factor in pair for run in factor.runs]
        return replace(rest, inner=(*value.inner, *(Inner(run.axis, "pair", run.size, run.stride) for run in runs)))
    return replace(rest, summed=(*value.summed, *pair))


@rule("aten.view_as_real", "aten.view_as_real_copy")
def as_real(call: Call) -> Result:
    """The real and the imaginary part beside each other: the dimension that was, or a new one."""
    value = call.value(call.first())
    if value.kind == "data" and value.summed and value.summed[-1].size == 2:
        return replace(value, dims=(*value.dims, value.summed[-1:]), summed=value.summed[:-1])
    if value.kind == "weight" and value.inner and value.inner[-1].use == "pair":
        *inner, pair = value.inner
        last = (Factor(pair.size, (Run(pair.axis, 0, pair.stride, 0, pair.size),)),)
        return replace(value, dims=(*value.dims, last), inner=tuple(inner))
    return value.with_dims((*value.dims, fresh_dim(2)))


@rule(
    "aten.fft_fft", "aten.fft_ifft", "aten.fft_rfft", "aten.fft_irfft", "aten.fft_hfft", "aten.fft_ihfft",
    "aten.fft_fft2", "aten.fft_ifft2", "aten.fft_rfft2", "aten.fft_irfft2", "aten.fft_hfft2", "aten.fft_ihfft2",
    "aten.fft_fftn", "aten.fft_ifftn", "aten.fft_rfftn", "aten.fft_irfftn", "aten.fft_hfftn", "aten.fft_ihfftn",
    "aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c",
)  # fmt: skip
def transform(call: Call) -> Result:
    """Places become frequencies; the other dimensions stay. A transformed weight is a function of its entries."""
    value = call.value(call.first())
    rank = len(value.dims)
    along = _transformed(call, rank)
    if value.kind == "weight":
        dims = [resized(dim, size) if i in along else dim
                for i, (dim, size) in enumerate(zip(value.dims, call.shape, strict=True))]  # fmt: skip
        return value.with_dims(dims).through(call.name)
    if any(factor.runs for i in along for factor in value.dims[i]) or value.spread:
        call.consume(call.first(), 0)
        plain = (fresh_dim(size, is_feature(dim)) for size, dim in zip(value.shape, value.dims, strict=True))
        value = Value(value.kind, tuple(plain), touched=value.touched)
    return value.with_dims(fresh_dim(size, is_feature(dim)) if i in along else dim
                           for i, (dim, size) in enumerate(zip(value.dims, call.shape, strict=True)))  # fmt: skip


def _transformed(call: Call, rank: int) -> set[int]:
    """The dimensions that a transform runs over."""
    dims: Any = call["dim"]
    if dims is None:
        sizes = call["s"]
        return set(range(rank - len(sizes) if sizes else 0, rank))
    return {place(int(i), rank) for i in (dims if isinstance(dims, (list, tuple)) else (dims,))}
