"""Matrices to Frobenius norm one, and to 16 bits, in two passes over memory: measured in parts, then scaled."""

from __future__ import annotations

import torch
from torch import Tensor

from normc.kernels.language import jit, tl
from normc.kernels.small import inverse_length, inverse_power

# Entries of a tile that a program takes at a time, the tiles' width along the contiguous side, and the most parts that
# a matrix is measured in.
_WIDTH, _ENTRIES, _PARTS = 256, 4096, 256


@jit
def measure_kernel(  # type: ignore[no-untyped-def]  # Triton's, as all in kernels
    x, peaks, totals, n, m, tiles_across, tiles, parts, x_batch, x_row, x_column,
    FAR: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The largest entry of a part of a matrix, and the sum of squares over that entry's power of two."""
    batch, part = (tl.program_id(0) // parts).to(tl.int64), tl.program_id(0) % parts
    peak, total, power = 0.0, 0.0, 1.0
    for tile in range(part, tiles, parts):
        rows = (tile // tiles_across) * HEIGHT + tl.arange(0, HEIGHT)
        columns = (tile % tiles_across) * WIDTH + tl.arange(0, WIDTH)
        inside = (rows[:, None] < n) & (columns[None, :] < m)
        if FAR:
            rows, columns = rows.to(tl.int64), columns.to(tl.int64)
        at = x + batch * x_batch + (rows[:, None] * x_row + columns[None, :] * x_column)
        wide = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        peak = tl.maximum(peak, tl.max(tl.max(tl.abs(wide), 1), 0))
        lower = inverse_power(peak)
        wide = wide * lower
        total = total * (lower / power) * (lower / power) + tl.sum(tl.sum(wide * wide, 1), 0)
        power = lower
    tl.store(peaks + batch * parts + part, peak)
    tl.store(totals + batch * parts + part, total)


@jit
def scale_kernel(  # type: ignore[no-untyped-def]
    x, y, peaks, totals, n, m, rows_filled, columns_filled, tiles_across, tiles, parts,
    x_batch, x_row, x_column, y_batch, y_row, y_column,
    GAIN: tl.constexpr, FAR: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """x GAIN over its norm, in y's dtype, with zeros where y is larger."""
    batch, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    part = tl.arange(0, PARTS)
    own = tl.load(peaks + batch * parts + part, mask=part < parts, other=0.0)
    sums = tl.load(totals + batch * parts + part, mask=part < parts, other=0.0)
    power = inverse_power(tl.max(own, 0))
    ratio = power / inverse_power(own)
    unit = inverse_length(tl.sum(tl.where(sums > 0.0, sums * ratio * ratio, 0.0), 0), GAIN)
    rows = (tile // tiles_across) * HEIGHT + tl.arange(0, HEIGHT)
    columns = (tile % tiles_across) * WIDTH + tl.arange(0, WIDTH)
    inside = (rows[:, None] < n) & (columns[None, :] < m)
    filled = (rows[:, None] < rows_filled) & (columns[None, :] < columns_filled)
    if FAR:
        rows, columns = rows.to(tl.int64), columns.to(tl.int64)
    x_at = x + batch * x_batch + (rows[:, None] * x_row + columns[None, :] * x_column)
    wide = tl.load(x_at, mask=inside, other=0.0).to(tl.float32) * power * unit
    y_at = y + batch * y_batch + (rows[:, None] * y_row + columns[None, :] * y_column)
    tl.store(y_at, wide.to(y.dtype.element_ty), mask=filled)


def normalise(x: Tensor, y: Tensor, gain: float) -> Tensor:
    """y = x gain over x's Frobenius norm, for each matrix of a batch; zero for zero, and where y has more entries.

    Any strides of x [batch, n, m] and y [batch, at least n, at least m]. `gain` is a power of two. The same to the bit
    when x is scaled by a power of two, and no square under- or overflows.
    """
    if x.stride(-1) != 1 and x.stride(-2) == 1:
        return normalise(x.mT, y.mT, gain).mT
    batch, n, m = x.shape
    _, rows, columns = y.shape
    if y.numel() == 0:
        return y
    width = min(_WIDTH, max(16, 1 << (columns - 1).bit_length()))
    height = _ENTRIES // width
    across = -(-columns // width)
    tiles = across * -(-rows // height)
    parts = min(tiles, _PARTS)
    peaks, totals = torch.empty(2, batch, parts, dtype=torch.float32, device=x.device).unbind()
    far = max(rows * z.stride(1) + columns * z.stride(2) for z in (x, y)) >= 2**30
    measure_kernel[(batch * parts,)](
        x, peaks, totals, n, m, across, tiles, parts, *x.stride(),
        FAR=far, HEIGHT=height, WIDTH=width, num_warps=8,
    )  # fmt: skip
    scale_kernel[(batch * tiles,)](
        x, y, peaks, totals, n, m, rows, columns, across, tiles, parts, *x.stride(), *y.stride(),
        GAIN=gain, FAR=far, HEIGHT=height, WIDTH=width, PARTS=_PARTS, num_warps=8,
    )  # fmt: skip
    return y
