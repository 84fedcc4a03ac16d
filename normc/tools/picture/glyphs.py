"""A parameter as a small matrix: d_out tall, d_in wide, both on a logarithmic scale; its blocks are stripes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from normc.plans.row import Row
from normc.tools.report.words import shown

_STRIPES = 48  # drawn one by one; of more the first are drawn, as wide as they are together
_THIN = 7.0


class Stripe(NamedTuple):
    """One span of a block: where it starts, how long it is (px), its block's shade of three, and a label that fits."""

    start: float
    length: float
    shade: int
    label: str


class Glyph(NamedTuple):
    """Sizes in px. `sheets`: stacked matrices, up to three. `window`: whether a kernel slides over its input.

    `across`: stripes stand side by side, as blocks of fan-in do; else one above the other.
    """

    width: float
    height: float
    sheets: int
    window: bool
    across: bool
    stripes: tuple[Stripe, ...]


def glyph(row: Row) -> Glyph:
    """The picture of a row."""
    width, height = _sides(row)
    axis = row.blocks[0].axis if row.blocks else -1
    across = axis in row.in_axes
    known = row.blocks and (across or axis in row.out_axes or len(row.shape) == 1)
    stripes = tuple(_stripes(row, width if across else height)) if known else ()
    sheets = min(3, math.prod(row.shape[axis] for axis in row.block_axes)) if row.block_axes and row.in_axes else 1
    return Glyph(width, height, max(sheets, 1), bool(row.kernel_axes), across, stripes)


def _sides(row: Row) -> tuple[float, float]:
    if row.in_axes:
        return _side(math.prod(row.shape[axis] for axis in row.in_axes)), _side(row.fan_out)
    if len(row.shape) > 1 and row.shape[-1] * row.shape[-2] > max(row.shape[-2:]):
        return _side(row.shape[-1]), _side(row.shape[-2])
    return _THIN, _side(row.numel)


def _side(count: int) -> float:
    return round(max(_THIN, 3 + 4.2 * math.log2(max(count, 1))), 1)


def _stripes(row: Row, side: float) -> Iterator[Stripe]:
    spans = sorted((*span, index) for index, block in enumerate(row.blocks) for span in block.spans)
    whole = row.shape[row.blocks[0].axis]
    if len(spans) > _STRIPES:
        spans = [(i * whole // _STRIPES, (i + 1) * whole // _STRIPES, spans[i][2]) for i in range(_STRIPES)]
    for start, stop, index in spans:
        length = (stop - start) / whole * side
        label = shown(row.blocks[index].label)
        fits = length >= 9 and len(label) <= 4 and len(row.blocks) == len(spans)
        yield Stripe(round(start / whole * side, 1), round(length, 1), index % 3, label if fits else "")
