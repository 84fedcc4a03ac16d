"""How many steps one optimizer needs for another's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

Curve = Sequence[tuple[int, float]]  # (steps done, loss), in the order of steps


def reached(curve: Curve, loss: float) -> int | None:
    """Return the first measured number of steps after which the loss is at most `loss`; None if it never is."""
    return next((step for step, value in curve if value <= loss), None)


def ratio(ours: Curve, peer: Curve) -> float:
    """Return the steps that `ours` needs for the peer's final loss, over the peer's steps.

    Where ours never gets there, the reverse is counted: the steps of both over those that the peer needs for our final
    loss. So a ratio below 1 is ahead, above 1 behind. Both have the same number of steps.
    """
    steps = reached(ours, peer[-1][1])
    if steps is not None:
        return steps / peer[-1][0]
    other = reached(peer, ours[-1][1])
    if other is None:
        raise ValueError("a loss that isn't a number was compared\n  fix: write losses that aren't finite as inf")
    return peer[-1][0] / other


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; nan of a single value."""
    if len(values) < 2:
        return math.nan
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
