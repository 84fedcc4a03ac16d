"""Matrices to Frobenius norm one, and to 16 bits, in two passes over memory: measured in parts, then scaled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normc.update.kernels.language import BLOCK, jit, tl
from normc.update.kernels.small import inverse_length, inverse_power

# Entries of a tile that a program takes at a time, the tiles' width along the contiguous side, and the most parts that
# a matrix is measured in.
_WIDTH, _ENTRIES, PARTS = 256, 4096, 256
# Norms between which no square of an entry that counts under- or overflows in float32.
FEWEST, MOST = 2.0**-30, 2.0**60


@jit
def measured(peak, total, power, wide):  # type: ignore[no-untyped-def]  # Triton's, as all in kernels
    """More entries taken into the largest one, the sum of squares over its power of two, and one over that power; and
    the power of two that brings the largest of these entries to [1, 2).
    """
    own = tl.max(tl.abs(wide))
    peak = tl.maximum(peak, own)
    lower = inverse_power(peak)
    wide = wide * lower
    return peak, total * (lower / power) * (lower / power) + tl.sum(wide * wide), lower, inverse_power(own)


@jit
def all_measured(peaks, totals, batch, parts, GAIN: tl.constexpr, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of a matrix measured in parts: one over its largest entry's power of two, and what brings the rest to GAIN."""
    part = tl.arange(0, PARTS)
    own = tl.load(peaks + batch * parts + part, mask=part < parts, other=0.0)
    sums = tl.load(totals + batch * parts + part, mask=part < parts, other=0.0)
    power = inverse_power(tl.max(own, 0))
    ratio = power / inverse_power(own)
    return power, inverse_length(tl.sum(tl.where(sums > 0.0, sums * ratio * ratio, 0.0), 0), GAIN)


@jit
def measure_kernel(  # type: ignore[no-untyped-def]
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
        peak, total, power, _ = measured(peak, total, power, wide)
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
    power, unit = all_measured(peaks, totals, batch, parts, GAIN, PARTS)
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


def starting_norm(n: int, dtype: torch.dtype) -> float:
    """What norm matrices of short side n are given: in fp16 a power of two that keeps entries from its small end."""
    return 2.0 ** round(math.log2(n) / 2) if dtype == torch.float16 else 1.0


def scaled(x: Tensor, gain: float, out: Tensor | None = None) -> Tensor:
    """x gain over its Frobenius norm, for each matrix of a batch [batch, n, m] on a CPU; zero for zero.

    In float32 at least. One pass over x for the norms, and one that scales. Lines are summed apart, and their norms in
    float64: one sum of all entries is off by 4e-5 at 768 x 3072. The same to the bit when x is scaled by a power of
    two: where a square could under- or overflow, the largest entry's power of two is divided out first. `gain` is one.
    """
    norms = _norms(x)
    if not bool(((norms > FEWEST) & (norms < MOST)).all()):
        peaks = x.abs().amax((-2, -1), keepdim=True).to(torch.promote_types(x.dtype, torch.float32))
        powers = peaks / (2.0 * torch.frexp(peaks).mantissa)
        x = x / torch.where(peaks > 0, powers, 1.0)
        norms = _norms(x)
    factors = gain / torch.where(norms > 0, norms, 1.0)
    return torch.mul(x, factors.to(torch.promote_types(x.dtype, torch.float32)), out=out)


def _norms(x: Tensor) -> Tensor:
    """The Frobenius norms of matrices, [batch, 1, 1] in float64."""
    along = -2 if x.stride(-1) != 1 and x.stride(-2) == 1 else -1
    lines: Tensor = torch.linalg.vector_norm(x, 2, along, True, dtype=torch.promote_types(x.dtype, torch.float32))
    return lines.double().square().sum((-2, -1), keepdim=True).sqrt()


def normalise(x: Tensor, y: Tensor, gain: float) -> Tensor:
    """y = x gain over x's Frobenius norm, for each matrix of a batch; zero for zero, and where y has more entries.

    Any strides of x [batch, n, m] and y [batch, at least n, at least m]. `gain` is a power of two. The same to the bit
    when x is scaled by a power of two, and no square under- or overflows.
    """
    if x.stride(-1) != 1 and x.stride(-2) == 1:
        return normalise(x.mT, y.mT, gain).mT
    batch, n, m = x.shape
    if y.numel() == 0:
        return y
    across, tiles, height, width = _tiles(y)
    parts = min(tiles, PARTS)
    sums = torch.empty(2, batch, parts, dtype=torch.float32, device=x.device)
    far = _far(x)
    measure_kernel[(batch * parts,)](
        x, *sums, n, m, across, tiles, parts, *x.stride(), FAR=far, HEIGHT=height, WIDTH=width, num_warps=8
    )
    scale_kernel[(batch * tiles,)](
        x, y, *sums, n, m, *y.shape[1:], across, tiles, parts, *x.stride(), *y.stride(),
        GAIN=gain, FAR=far or _far(y), HEIGHT=height, WIDTH=width, PARTS=PARTS, num_warps=8,
    )  # fmt: skip
    return y


@jit
def unit_kernel(  # type: ignore[no-untyped-def]
    x, scales, peaks, totals, entries, blocks, parts, tiles,
    GAIN: tl.constexpr, FAR: tl.constexpr, HEIGHT: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Matrices of which every BLOCK entries are written times a scale, in place: each times GAIN over its norm."""
    batch, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    power, unit = all_measured(peaks, totals, batch, parts, GAIN, PARTS)
    block = tile * HEIGHT + tl.arange(0, HEIGHT)
    scale = tl.load(scales + batch * blocks + block, mask=block < blocks, other=1.0)
    if FAR:
        block = block.to(tl.int64)
    here = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    at, inside = x + batch * entries + here, here < entries
    wide = tl.load(at, mask=inside, other=0.0).to(tl.float32) * (power / scale)[:, None] * unit
    tl.store(at, wide.to(x.dtype.element_ty), mask=inside)


def unit_norm(stack: Tensor, sums: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A contiguous stack of matrices in fp16 brought to their `starting_norm`, in its own memory.

    `sums` are the scales [batch, blocks] that every BLOCK entries of a matrix are written with, and of its parts
    [batch, parts] the largest entries, and the sums of squares over their powers of two.
    """
    if stack.numel() == 0:
        return stack
    scales, peaks, totals = sums
    batch, rows, columns = stack.shape
    height = _ENTRIES // BLOCK
    tiles = -(-scales.shape[1] // height)
    unit_kernel[(batch * tiles,)](
        stack, scales, peaks, totals, rows * columns, scales.shape[1], peaks.shape[1], tiles,
        GAIN=starting_norm(min(rows, columns), stack.dtype), FAR=_far(stack), HEIGHT=height, BLOCK=BLOCK, PARTS=PARTS,
        num_warps=8,
    )  # fmt: skip
    return stack


def _tiles(y: Tensor) -> tuple[int, int, int, int]:
    """Tiles across, tiles in all, and a tile's height and width."""
    _, rows, columns = y.shape
    width = min(_WIDTH, max(16, 1 << (columns - 1).bit_length()))
    height = _ENTRIES // width
    across = -(-columns // width)
    return across, across * -(-rows // height), height, width


def _far(x: Tensor) -> bool:
    return x.shape[1] * x.stride(1) + x.shape[2] * x.stride(2) >= 2**30
