"""The call behind `normc.cbs.measure`: for each batch size, the fewest steps to a target loss over learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from normc.arguments import function, instance, items, number, shown, whole
from normc.errors import NormcError
from normc.tools.cbs.law import LEAST
from normc.tools.cbs.result import Measurement, Point
from normc.tools.cbs.trial import Trial, run


def measure(
    train: Callable[[int, float], Trial],
    batches: Sequence[int],
    target: float,
    *,
    lrs: Sequence[float],
    decays: Sequence[float] = (0.99,),
    limit: int = 10_000,
    every: int = 1,
    resolution: float = 0.02,
    search: Literal["all", "nearest"] = "all",
    report: Callable[[Point], object] | None = None,
) -> Measurement:
    """Steps to `target` at each batch size: at constant learning rates, of exponentially averaged weights.

    train       makes the run of a batch size and a learning rate, always from the same weights
    lrs         each is tried at every batch size, the nearest to the last one's best first; the fewest steps count
    decays      of averages that are kept side by side; the first that reaches the target counts
    limit       steps after which a run has failed
    every, resolution  steps between measurements of the loss: at least `every`, and that share of the steps so far
    search      "nearest" leaves out what lies beyond a learning rate that did worse: right if there is one best one
    report      called with each batch size's result as soon as it is there

    A run stops at the target, or once it has taken as many steps as the best one of its batch size. NormcError for
    arguments that make no sense, and where fewer than three batch sizes reach the target.
    """
    sizes = _checked(batches, target, lrs, decays, limit, every, resolution)
    function("train", train, "give a function of a batch size and a learning rate that returns a Trial")
    if report is not None:
        function("report", report, "give a function of a Point, or None")
    if not isinstance(search, str) or search not in ("all", "nearest"):
        raise NormcError(f"there is no search {shown(search)} of learning rates", "known: all, nearest")
    points: list[Point] = []
    order = list(dict.fromkeys(lrs))
    for batch in sizes:
        best = Point(batch, None, order[0], decays[0], math.inf)
        for place, lr in enumerate(order):
            left = limit if best.steps is None else best.steps - 1
            if left < 1:
                break
            if search == "nearest" and best.steps is not None and _beyond(order[:place], lr, best.lr):
                continue
            trial = instance("what train returned", train(batch, lr), Trial, "return a normc.cbs.Trial")
            found = run(trial, target, decays, left, every, resolution)
            if found.steps is not None or (best.steps is None and found.loss < best.loss):
                best = Point(batch, found.steps, lr, found.decay, found.loss)
        order = _nearest_first(order, best.lr)
        points.append(best)
        if report is not None:
            report(best)
    if sum(point.steps is not None for point in points) < LEAST:
        raise NormcError(
            f"too few batch sizes reached the target {target:g} in {limit} steps: "
            + ", ".join(_said(point) for point in points),
            "raise the target or the limit, or try other learning rates",
        )
    return Measurement(target, limit, tuple(sorted(set(lrs))), tuple(points))


def _nearest_first(lrs: Sequence[float], best: float) -> list[float]:
    return sorted(lrs, key=lambda lr: abs(math.log(lr / best)))


def _beyond(tried: Sequence[float], lr: float, best: float) -> bool:
    """Whether something that was tried lies between `lr` and the best."""
    return any(min(lr, best) < other < max(lr, best) for other in tried)


def _said(point: Point) -> str:
    how = f"after {point.steps} steps" if point.steps is not None else f"lowest {point.loss:.4g}"
    return f"{point.batch} ({how} at lr {point.lr:g})"


def _checked(
    batches: Sequence[int], target: float, lrs: Sequence[float], decays: Sequence[float],
    limit: int, every: int, resolution: float,
) -> tuple[int, ...]:  # fmt: skip
    many = items("batches", batches, "give batch sizes, as (16, 32, 64)")
    sizes = tuple(sorted({whole("a batch size", size, 1, "give whole numbers of at least 1") for size in many}))
    if len(sizes) < LEAST:
        raise NormcError(f"{len(sizes)} batch sizes say nothing of a critical one", f"give {LEAST} or more")
    number("target", target, "give a finite loss", lambda value: True)
    for name, values, fits, fix in (
        ("lrs", lrs, lambda value: value > 0, "give one positive number or more: lrs=(1e-3, 3e-3)"),
        ("decays", decays, lambda value: 0 <= value < 1, "give one number of [0, 1) or more: decays=(0.9, 0.99)"),
    ):
        if not [number(f"one of {name}", value, fix, fits) for value in items(name, values, fix)]:
            raise NormcError(f"{name} is empty", fix)
    whole("limit", limit, 1, "give a number of steps, at least 1")
    whole("every", every, 1, "give a number of steps, at least 1")
    number("resolution", resolution, "give a share of the steps so far, at least 0")
    return sizes
