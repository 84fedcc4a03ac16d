"""Results that nearly vanish, or explode, because a bent function is asked far out.

For Gaussians exp(-|x - c|^2) is 1e-7, where the distances of a real model are small. Such a size says nothing of the
model, and what rests on it wouldn't learn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from normc.model.gains.activations import pointwise
from normc.model.gains.local import At, Local, gain_of
from normc.model.gains.probe import probed

# A result this much smaller or larger than its operands is doubted; it is believed if operands half as large give about
# the same.
LEAST, MOST = 5e-2, 1e3
_SURE = 10.0
_HALVINGS = 12


class Doubted(NamedTuple):
    """What an op gives for operands of `factor` times the sizes tracked, in place of a size that isn't believed."""

    local: Local
    factor: float


def plausible(at: At, local: Local) -> bool:
    """Whether the size of an op's result is near that of its operands, is exact whatever it is, or can't be asked."""
    if LEAST <= local.size.rms <= MOST:
        return True  # whatever the operands' are
    bent = local.how == "probe" or gain_of(at.node) is pointwise
    known = not any(at.sizes.get(operand, local.size) is None for operand in at.data)
    if at.model.nominal or at.samples is None or not bent or not known:
        return True
    low, high = _bounds(at)
    return low <= local.size.rms <= high


def _bounds(at: At) -> tuple[float, float]:
    largest = max((at.size(operand).rms for operand in at.data), default=1.0)
    return LEAST * min(largest, 1.0), MOST * max(largest, 1.0)


def doubted(at: At, local: Local) -> Doubted | None:
    """The least halving of all that the op's operands are made of at which its result is plausible. None where it is
    about the same with smaller operands, or can't be tried out.
    """
    if at.samples is None:
        return None
    low, high = _bounds(at)
    for halvings in range(1, _HALVINGS + 1):
        factor = 2.0**-halvings
        try:
            found = probed(replace(at, samples=at.samples.shrunk(factor)))
        except LookupError:
            return None
        if halvings == 1 and local.size.rms / _SURE <= found.size.rms <= _SURE * local.size.rms and found.size.rms:
            return None
        if low <= found.size.rms <= high:
            return Doubted(found, factor)
    return None
