"""What a product that sums over places leaves of an activation: its runs along the features that it doesn't sum."""

from __future__ import annotations

from collections.abc import Sequence

from normc.model.ops.overlay import overlaid
from normc.model.ops.value import Dim, Value, dim_size


def has_runs(dim: Dim) -> bool:
    """Whether a dimension runs along a parameter."""
    return any(factor.runs for factor in dim)


def keeps(value: Value, summed: Sequence[int]) -> bool:
    """Whether an activation runs along parameters, but along none that is summed: only places are mixed."""
    if value.kind != "data" or value.spread or value.summed or not value.axes():
        return False
    return not any(has_runs(value.dims[i]) for i in summed)


def still(before: Sequence[Value], ended: Sequence[Value], summed: Sequence[Sequence[int]]) -> list[Value]:
    """The operands of a product, of which one may be what it was. Two that meet there have both come to their end."""
    kept = [slot for slot, value in enumerate(before) if keeps(value, summed[slot])]
    return [value if kept == [slot] else end for slot, (value, end) in enumerate(zip(before, ended, strict=True))]


def over(dims: Sequence[Dim], others: Sequence[Dim], shape: tuple[int, ...]) -> tuple[Dim, ...]:
    """Leading dimensions of a product, where those of both operands lie over each other."""
    found: list[Dim] = []
    for place, size in enumerate(shape):
        own = [dims[i] for dims in (dims, others) if (i := place - len(shape) + len(dims)) >= 0]
        found.append(overlaid([dim for dim in own if dim_size(dim) == size], size))
    return tuple(found)
