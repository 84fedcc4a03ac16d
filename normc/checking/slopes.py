"""How an activation's size goes with the width or the depth, and what of that is as it should be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from normc.checking.verdict import Verdict

Kind = Literal["plain", "readout", "tied", "logits", "stream", "step"]
Along = Literal["width", "depth"]
Slopes = tuple[float | None, float | None, float | None]
GROWS = 0.3  # slopes within +-0.3 are flat: less than a factor 1.23 a doubling; wrong exponents are 1/2 or more
_ADDS_UP = 0.6


def rising(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """`slope`, or that between the two largest sizes where it is smaller: what levels off doesn't grow."""
    whole, tail = slope(sizes, values), slope(sizes[-2:], values[-2:])
    if whole is None or tail is None or whole <= 0:
        return whole
    return min(whole, max(tail, 0.0))


def slope(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """Of log2(value) against log2(size), by least squares; None where a value is nothing or not finite."""
    if any(not (value > 1e-12 and math.isfinite(value)) for value in values):
        return None
    x, y = [math.log2(size) for size in sizes], [math.log2(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


BLOWS = "not finite, or nothing, at some size: training failed there, or nothing reaches this activation"
GROWS_INIT = {
    "width": "before any step: its initial weights don't fall as 1/sqrt(fan-in) (one standard deviation for all)",
    "depth": "before any step: each further layer makes it larger, and no norm holds it",
}
GROWS_TRAINED = (
    "after the steps, not before them: the updates are too large for larger models, so the best learning rate falls as "
    "the model grows"
)
READOUT_GROWS = (
    "the change of a readout grows, though not its size: what the layers before it learn lines up with its weights, "
    "which at 1/sqrt(width) are too large for that; initialise it at 1/width, or at 0"
)
MAY_SHRINK = (
    "fine at init: a readout of random features, and logits of independent queries and keys, average out as "
    "1/sqrt(width); what they learn doesn't"
)
SHRINKS = "an activation that vanishes as the model grows: its initial weights are too small for its fan-in"
TIED = (
    "a table tied to a readout: one weight can't have the right size for both, and steps that suit a readout are "
    "1/width of what suits a table; untie them if the table is to learn at all widths"
)
STEP_GROWS = {
    "width": "one step moves the output further in wide models: the best learning rate falls with the width",
    "depth": "one step moves the output further in deep models, since their layers' steps add up: the best learning "
    "rate falls with the depth (a recipe whose targets share one budget, by mass, doesn't have that)",
}
IN_BAND = "it grows with the model and stays below what all targets together allow"
SHARES = "the layers share one change of the output: the more there are, the less each one moves"
STEP_SHRINKS = "one step moves the output less as the model grows: safe, but the best learning rate rises"
LEARNS_LESS = "its change in training vanishes as the model grows: this layer stops learning"
ZERO = "nothing at init (a zero-initialised projection or readout); it moves in training alike at all sizes"
ADDS = (
    "a residual stream is the sum of its branches and grows with their number, and so does what reads it: fine where a "
    "norm divides by it. Its change, relative to its size, doesn't grow"
)


def judged(kind: Kind, along: Along, slopes: Slopes, first: Sequence[float], bound: float | None) -> Verdict:
    """Of the slopes before the steps, after them, and of the change. `bound`: what a step may move the output by."""
    start, end, moved = slopes
    if kind == "step" and end is not None:
        if bound is not None and end > GROWS and max(first) <= bound:
            return Verdict("note", "in band", IN_BAND)
        return Verdict("wrong", "grows", STEP_GROWS[along]) if end > GROWS else _flat_or(end, STEP_SHRINKS)
    if end is None:
        return Verdict("note" if all(value == 0 for value in first) else "wrong", "nothing", BLOWS)
    if along == "depth" and start is not None and moved is not None and GROWS < start <= _ADDS_UP:
        # What counts of a stream is its change relative to its size.
        if moved - start <= GROWS and end <= _ADDS_UP + GROWS:
            return Verdict("note", "grows", ADDS)
    if start is not None and start > GROWS:
        return Verdict("wrong", "grows", GROWS_INIT[along])
    if along == "width" and kind == "readout" and end <= GROWS and moved is not None and moved > GROWS:
        return Verdict("wrong", "change grows", READOUT_GROWS)
    if end > GROWS or (moved is not None and moved > GROWS):
        return Verdict("wrong", "grows", GROWS_TRAINED)
    if kind == "tied" and min(start or 0.0, moved or 0.0) < -GROWS:
        return Verdict("note", "shrinks", TIED)
    if along == "depth" and moved is not None and -1 - GROWS <= moved < -GROWS and kind == "plain":
        return Verdict("ok", "shares", SHARES)
    if moved is not None and moved < -GROWS and kind != "logits":
        return Verdict("wrong", "learns less", LEARNS_LESS)
    if start is not None and start < -GROWS:
        if kind in ("readout", "logits"):
            return Verdict("note", "shrinks", MAY_SHRINK)
        return Verdict("wrong", "shrinks", SHRINKS)
    if start is None:
        return Verdict("note", "flat from 0", ZERO)
    return Verdict("ok", "flat")


def _flat_or(value: float, why: str) -> Verdict:
    return Verdict("note", "shrinks", why) if value < -GROWS else Verdict("ok", "flat")
