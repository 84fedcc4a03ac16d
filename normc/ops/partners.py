"""Whose outputs a vector is added to or multiplies, entry by entry: a bias beside its matrix, a gain behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from normc.ops.strands import flat
from normc.ops.value import Axis, Dim, Run, Spans, Value, plain, sums

_MOST_PAIRS = 4096


class Partner(NamedTuple):
    """`size` entries of a parameter's axis `own`, `start` and on, `stride` apart, and what they meet.

    Entry i meets entries of `axis`, a weight's output: `first` + i * `step` + each of `around`.
    """

    own: Axis
    start: int
    stride: int
    axis: Axis
    first: int
    step: int
    size: int
    around: Spans


def partners_of(weight: Value, data: Value, spots: Sequence[int]) -> tuple[Partner, ...]:
    """What meets what where the weight's dimensions lie over the dimensions `spots` of an activation."""
    found: list[Partner] = []
    for dim, spot in zip(weight.dims, spots, strict=True):
        own, others = _open(dim), _open(data.dims[spot])
        if len(own) * len(others) > _MOST_PAIRS:
            continue
        around = _around(data, spot) if own and others else {}
        for run in own:
            start = run.start + weight.offsets.get(run.axis, 0)
            for other in others:
                low = max(run.offset, other.offset)
                size = min(run.offset + run.size, other.offset + other.size) - low
                if size > 0:
                    first = other.start + (low - other.offset) * other.stride
                    found.append(Partner(run.axis, start + (low - run.offset) * run.stride, run.stride, other.axis,
                                         first, other.stride, size, around[other.thread]))  # fmt: skip
    return tuple(found)


def _open(dim: Dim) -> list[Run]:
    """The runs of a dimension as if it were one factor, without closed strands; none where they are too many."""
    return [run for run in flat(dim) or () if not run.strand.startswith("!")]


def _around(data: Value, spot: int) -> dict[tuple[Axis, str], Spans]:
    """For every thread, what its other dimensions add to an entry of this one."""
    rest = data.with_dims(plain(dim) if i == spot else dim for i, dim in enumerate(data.dims)).threads()
    found = {}
    for run in (run for factor in data.dims[spot] for run in factor.runs):
        start = 0 if run.strand else data.offsets.get(run.axis, 0)
        found[run.thread] = sums(((start, start + 1),), rest.get(run.thread, ()))
    return found
