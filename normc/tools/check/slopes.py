"""How an activation's size goes with the width or the depth, and what of that is as it should be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from normc.tools.check.verdict import Verdict

Kind = Literal["plain", "readout", "tied", "logits", "stream", "step"]
Along = Literal["width", "depth"]
Slopes = tuple[float | None, float | None, float | None]
GROWS = 0.3  # slopes within +-0.3 are flat: less than a factor 1.23 a doubling
SURELY = 0.4  # wrong exponents are 1/2 or more; what lies between the two is said, and not marked
_ADDS_UP = 0.6


def rising(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """`slope`, or what the last doublings foretell of the next where that is smaller: what levels off doesn't grow."""
    whole, tail, before = slope(sizes, values), slope(sizes[-2:], values[-2:]), slope(sizes[-3:-1], values[-3:-1])
    if whole is None or tail is None or whole <= 0:
        return whole
    if len(sizes) > 2 and before is not None and 0 < tail < before:
        tail *= tail / before
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
    "width": "before any step: the initial weights don't fall as 1/sqrt(fan-in) (one standard deviation for all), here "
    "or before; those of normc.init_ do (check it with --init)",
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
LOGITS_GROW = (
    "queries and keys that have learned to agree give logits of head width / sqrt(head width): divide them by the "
    "head's width, or let the number of heads grow instead"
)
NEARLY = "hardly more than flat, and less than a wrong exponent makes it: give more sizes, further apart, to be sure"
MAY_SHRINK = (
    "fine at init: a readout of random features, and logits of independent queries and keys, average out as "
    "1/sqrt(width); what they learn doesn't"
)
SHRINKS = (
    "before any step: it vanishes as the model grows; the initial weights are too small for their fan-in, here or "
    "before; those of normc.init_ aren't (check it with --init)"
)
FOLLOWS = (
    "its change grows or shrinks after the steps, but sizes do so before them (see !!), and steps act on what is "
    "there: mend that first"
)
WITHIN = "its change grows with the model, while that of the output stays below what all targets together allow"
MULTIPLIED = "what it returns grows, but a number behind it makes up for that: the model's output doesn't"
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
        return _of_step(along, end, max(first), bound)
    if end is None:
        return Verdict("note" if all(value == 0 for value in first) else "wrong", "nothing", BLOWS)
    if along == "depth" and start is not None and moved is not None and 0 < start <= _ADDS_UP:
        # What counts of a stream is its change relative to its size.
        most = SURELY if start > GROWS else GROWS
        if moved - start <= most and end <= _ADDS_UP + GROWS:
            return Verdict("note", "grows", ADDS) if start > GROWS else Verdict("ok", "flat")
    if start is not None and start > SURELY:
        return Verdict("wrong", "grows", GROWS_INIT[along])
    if along == "width" and kind == "readout" and end <= GROWS and moved is not None and moved > GROWS:
        return _marked("change grows", READOUT_GROWS, moved)
    if (most := max(end, moved or 0.0)) > GROWS:
        if kind == "logits" and along == "width":
            return Verdict("wrong", "grows", LOGITS_GROW)
        return _marked("grows", GROWS_TRAINED, most)
    if kind == "tied" and min(start or 0.0, moved or 0.0) < -GROWS:
        return Verdict("note", "shrinks", TIED)
    if along == "depth" and moved is not None and -1 - GROWS <= moved < -GROWS and kind == "plain":
        return Verdict("ok", "shares", SHARES)
    if moved is not None and moved < -GROWS and kind != "logits":
        return _marked("learns less", LEARNS_LESS, moved)
    if start is not None and start < -GROWS:
        if kind in ("readout", "logits"):
            return Verdict("note", "shrinks", MAY_SHRINK)
        return _marked("shrinks", SHRINKS, start)
    if start is None:
        return Verdict("note", "flat from 0", ZERO)
    return Verdict("ok", "flat")


def _of_step(along: Along, slope: float, largest: float, bound: float | None) -> Verdict:
    if slope <= GROWS:
        return Verdict("note", "shrinks", STEP_SHRINKS) if slope < -GROWS else Verdict("ok", "flat")
    if bound is not None and largest <= bound:
        return Verdict("note", "in band", IN_BAND)
    return _marked("grows", STEP_GROWS[along], slope)


def _marked(word: str, why: str, value: float) -> Verdict:
    """Wrong, if the slope is as large as a wrong exponent's."""
    return Verdict("wrong", word, why) if abs(value) > SURELY else Verdict("note", word, NEARLY)


def settled(verdicts: Sequence[Verdict], step: Verdict | None, bounded: bool) -> list[Verdict]:
    """The verdicts of all lines seen together: marks where a fault is, notes where it is only felt.

    `step` is that of the output's change; `bounded`: whether the targets are shares of one budget.
    """
    initial = any(verdict.level == "wrong" and verdict.why in (*GROWS_INIT.values(), SHRINKS) for verdict in verdicts)
    held = bounded and step is not None and step.level != "wrong"
    found = []
    for verdict in verdicts:
        if verdict.level == "wrong" and initial and verdict.why in (GROWS_TRAINED, LEARNS_LESS, *STEP_GROWS.values()):
            verdict = Verdict("note", "follows", FOLLOWS)
        elif verdict.level == "wrong" and held and verdict.why == GROWS_TRAINED:
            verdict = Verdict("note", "in band", WITHIN)
        found.append(verdict)
    return found
