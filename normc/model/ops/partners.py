"""Whose outputs a vector is added to or multiplies, entry by entry: a bias beside its matrix, a gain behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from normc.model.ops.strands import flat
from normc.model.ops.value import Axis, Dim, Run, Spans, Thread, Value, plain, sums

_MOST_PAIRS = 4096


class Partner(NamedTuple):
    """`size` steps along dimension `spot` of a product or sum, at which entries of `own` meet entries of `axis`.

    Step i has entries `start` + i * `stride` + each of `beside` of the axis `own`. Of the output axis of a weight,
    `axis`, it has entries `first` + i * `step` + each of `around`.
    """

    spot: int
    own: Axis
    start: int
    stride: int
    beside: Spans
    axis: Axis
    first: int
    step: int
    around: Spans
    size: int


def partners_of(weight: Value, data: Value, spots: Sequence[int]) -> tuple[Partner, ...]:
    """What meets what where the weight's dimensions lie over the dimensions `spots` of an activation."""
    found: list[Partner] = []
    for place, spot in enumerate(spots):
        own, others = _open(weight.dims[place]), _open(data.dims[spot])
        if not own or not others or len(own) * len(others) > _MOST_PAIRS:
            continue
        beside, around = _rest(weight, place), _rest(data, spot)
        for run in own:
            for other in others:
                low = max(run.offset, other.offset)
                size = min(run.offset + run.size, other.offset + other.size) - low
                if size > 0:
                    start, first = (r.start + (low - r.offset) * r.stride for r in (run, other))
                    found.append(Partner(spot, run.axis, start, run.stride, beside[run.thread], other.axis, first,
                                         other.stride, around[other.thread], size))  # fmt: skip
    return tuple(found)


def _open(dim: Dim) -> list[Run]:
    """The runs of a dimension as if it were one factor, without closed strands; none where they are too many."""
    return [run for run in flat(dim) or () if not run.strand.startswith("!")]


def _rest(value: Value, spot: int) -> dict[Thread, Spans]:
    """For every thread along a dimension, what the other dimensions add to each of its entries."""
    rest = value.with_dims(plain(dim) if i == spot else dim for i, dim in enumerate(value.dims)).threads()
    found = {}
    for run in (run for factor in value.dims[spot] for run in factor.runs):
        start = 0 if run.strand else value.offsets.get(run.axis, 0)
        found[run.thread] = sums(((start, start + 1),), rest.get(run.thread, ()))
    return found
