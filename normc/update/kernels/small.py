"""Newton-Schulz of many small matrices in one launch: a program a matrix, everything between load and store on chip."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from normc.update.kernels.language import jit, runs_kernels, tl

Polynomials = tuple[tuple[float, float, float], ...]

# The longest short side; the most entries of a matrix, filled up to powers of two, that stays on chip as a whole.
LARGEST = 128
RESIDENT = 128 * 128
_DOTS = {torch.float16: tl and tl.float16, torch.bfloat16: tl and tl.bfloat16, torch.float32: tl and tl.float32}


@jit
def inverse_power(peak):  # type: ignore[no-untyped-def]  # Triton's, as all in kernels
    """A power of two that brings a peak to [1, 2), exactly."""
    exponent = (peak.to(tl.int32, bitcast=True) >> 23) & 255
    return (tl.minimum(tl.maximum(254 - exponent, 1), 254) << 23).to(tl.float32, bitcast=True)


@jit
def inverse_length(total, GAIN: tl.constexpr):  # type: ignore[no-untyped-def]
    """GAIN over the root of a sum of squares; zero for zero."""
    return tl.where(total > 0.0, GAIN / tl.sqrt(tl.where(total > 0.0, total, 1.0)), 0.0)


@jit
def small_polynomial(gram, table, step, SIZE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """a I + b R + c R^2 of a Gram matrix R in float32, for the coefficients of a step."""
    entries = tl.arange(0, SIZE)
    narrow = gram.to(DOT)
    square = tl.dot(narrow, narrow, input_precision=PRECISION)
    found = tl.load(table + step * 3 + 1) * gram + tl.load(table + step * 3 + 2) * square
    return found + tl.where(entries[:, None] == entries[None, :], tl.load(table + step * 3), 0.0)


@jit
def small_chain(gram, table, start, stop, SIZE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """Q with Q X the matrix after the steps start to stop, from R = X X^T alone: all factors commute."""
    factor = small_polynomial(gram, table, start, SIZE, DOT, PRECISION).to(DOT)
    whole = factor
    for step in range(start + 1, stop):
        half = tl.dot(gram.to(DOT), factor, input_precision=PRECISION).to(DOT)
        gram = tl.dot(half, factor, input_precision=PRECISION)
        factor = small_polynomial(gram, table, step, SIZE, DOT, PRECISION).to(DOT)
        whole = tl.dot(whole, factor, input_precision=PRECISION).to(DOT)
    return whole


@jit
def resident_kernel(  # type: ignore[no-untyped-def]
    x, out, table, n, m, steps,
    x_batch, x_row, x_column, out_batch, out_row, out_column,
    SIZE: tl.constexpr, LENGTH: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Matrices that fit on chip: X itself is iterated, the fewest products and the least error."""
    batch = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, SIZE), tl.arange(0, LENGTH)
    inside = (rows[:, None] < n) & (columns[None, :] < m)
    at = x + batch * x_batch + (rows[:, None] * x_row + columns[None, :] * x_column)
    wide = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    wide = wide * inverse_power(tl.max(tl.max(tl.abs(wide), 1), 0))
    wide = wide * inverse_length(tl.sum(tl.sum(wide * wide, 1), 0), 1.0)
    for step in range(steps):
        y = wide.to(DOT)
        gram = tl.dot(y, tl.trans(y), input_precision=PRECISION)
        factor = small_polynomial(gram, table, step, SIZE, DOT, PRECISION)
        wide = tl.dot(factor.to(DOT), y, input_precision=PRECISION)
    at = out + batch * out_batch + (rows[:, None] * out_row + columns[None, :] * out_column)
    tl.store(at, wide.to(out.dtype.element_ty), mask=inside)


@jit
def streamed_kernel(  # type: ignore[no-untyped-def]
    x, out, table, n, m, restart, steps,
    x_batch, x_row, x_column, out_batch, out_row, out_column,
    AGAIN: tl.constexpr, GAIN: tl.constexpr,
    SIZE: tl.constexpr, CHUNK: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Long matrices: X is read in chunks, the steps run on its Gram matrix. A restart computes Q X again, in chunks."""
    batch = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, SIZE), tl.arange(0, CHUNK)
    start = x + batch * x_batch + (rows[:, None] * x_row + columns[None, :] * x_column)
    peak, total, power = 0.0, 0.0, 1.0
    for first in range(0, m, CHUNK):
        inside = (rows[:, None] < n) & (columns[None, :] < m - first)
        wide = tl.load(start + first * x_column, mask=inside, other=0.0).to(tl.float32)
        peak = tl.maximum(peak, tl.max(tl.max(tl.abs(wide), 1), 0))
        lower = inverse_power(peak)
        wide = wide * lower
        total = total * (lower / power) * (lower / power) + tl.sum(tl.sum(wide * wide, 1), 0)
        power = lower
    # GAIN keeps the entries of long matrices away from the small end of fp16; R and Q take it out again, exactly.
    unit = inverse_length(total, GAIN)
    gram = tl.full((SIZE, SIZE), 0.0, dtype=tl.float32)
    for first in range(0, m, CHUNK):
        inside = (rows[:, None] < n) & (columns[None, :] < m - first)
        wide = tl.load(start + first * x_column, mask=inside, other=0.0).to(tl.float32)
        y = (wide * power * unit).to(DOT)
        gram = tl.dot(y, tl.trans(y), gram, input_precision=PRECISION)
    early = small_chain(gram * (1.0 / (GAIN * GAIN)), table, 0, restart, SIZE, DOT, PRECISION)
    early = (early.to(tl.float32) * (1.0 / GAIN)).to(DOT)
    late = early
    if AGAIN:
        gram = tl.full((SIZE, SIZE), 0.0, dtype=tl.float32)
        for first in range(0, m, CHUNK):
            inside = (rows[:, None] < n) & (columns[None, :] < m - first)
            wide = tl.load(start + first * x_column, mask=inside, other=0.0).to(tl.float32)
            y = tl.dot(early, (wide * power * unit).to(DOT), input_precision=PRECISION).to(DOT)
            gram = tl.dot(y, tl.trans(y), gram, input_precision=PRECISION)
        late = small_chain(gram, table, restart, steps, SIZE, DOT, PRECISION)
    goal = out + batch * out_batch + (rows[:, None] * out_row + columns[None, :] * out_column)
    for first in range(0, m, CHUNK):
        inside = (rows[:, None] < n) & (columns[None, :] < m - first)
        wide = tl.load(start + first * x_column, mask=inside, other=0.0).to(tl.float32)
        found = tl.dot(early, (wide * power * unit).to(DOT), input_precision=PRECISION)
        if AGAIN:
            found = tl.dot(late, found.to(DOT), input_precision=PRECISION)
        tl.store(goal + first * out_column, found.to(out.dtype.element_ty), mask=inside)


def small(
    x: Tensor,
    polynomials: Polynomials,
    *,
    restart_after: int = 2,
    dtype: torch.dtype = torch.float16,
    out: Tensor | None = None,
    precision: str | None = None,
) -> Tensor:
    """Newton-Schulz of matrices [batch, rows, columns] of any strides, the shorter side at most `LARGEST`.

    The same to the bit when x is scaled by a power of two; zero stays zero. Dots are in `dtype` and add up in float32;
    of float32 the `precision` is "ieee" or "tf32", by default "ieee" up to a short side of 32 and "tf32" above, where
    plain float32 takes minutes to compile. `out` may have any strides; it may be x itself, as a program reads and
    writes only its own matrix, and each chunk after its last reading.
    """
    assert x.dtype in _DOTS and runs_kernels(x.device), (x.dtype, x.device)
    result = torch.empty_like(x) if out is None else out
    flat, goal = (x.mT, result.mT) if x.shape[-2] > x.shape[-1] else (x, result)
    batch, n, m = flat.shape
    assert n <= LARGEST and polynomials and restart_after > 0, (n, len(polynomials), restart_after)
    if x.numel() == 0:
        return result
    table = coefficients(polynomials, x.device)
    size, length = max(16, _power_of_two(n)), max(16, _power_of_two(m))
    precise = precision or ("ieee" if size <= 32 else "tf32")
    common = {"SIZE": size, "DOT": _DOTS[dtype], "PRECISION": precise if dtype == torch.float32 else "tf32"}
    if size * length <= RESIDENT:
        resident_kernel[(batch,)](
            flat, goal, table, n, m, len(polynomials), *flat.stride(), *goal.stride(),
            **common, LENGTH=length, num_warps=8 if size * length > 4096 else 4, num_stages=2,
        )  # fmt: skip
        return result
    steps = len(polynomials)
    restart = min(restart_after, steps)
    streamed_kernel[(batch,)](
        flat, goal, table, n, m, restart, steps, *flat.stride(), *goal.stride(),
        **common, AGAIN=restart < steps, GAIN=2.0 ** round(math.log2(n) / 2),
        CHUNK=64 if size == LARGEST else 128, num_warps=8 if size > 32 else 4, num_stages=2,
    )  # fmt: skip
    return result


@lru_cache(maxsize=64)
def coefficients(polynomials: Polynomials, device: torch.device) -> Tensor:
    """The coefficients of all steps on the device, copied there once: before a CUDA graph is captured, not within."""
    return torch.tensor(polynomials, dtype=torch.float32, device=device)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
