"""Steps to a target by the batch size B, steps = a + b / B^alpha, and the batch size beyond which more is waste."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from normc.arguments import items, number
from normc.errors import NormcError

LEAST = 3  # batch sizes
_ALPHAS = (0.05, 4.0)


@dataclass(frozen=True, slots=True)
class Law:
    """What `fit` found. `a` is the number of steps that no batch size makes fewer.

    optimal     B_opt: a batch size that wastes nothing
    overhead    how much more work than at `optimal` is accepted, as a share of it
    """

    a: float
    b: float
    alpha: float
    optimal: float
    overhead: float
    batches: tuple[float, ...]
    steps: tuple[float, ...]

    def predict(self, batch: float) -> float:
        """Steps at a batch size."""
        return self.a + self.b / math.pow(batch, self.alpha)

    def examples(self, batch: float) -> float:
        """Examples at a batch size: what the run costs, by and large."""
        return batch * self.predict(batch)

    @property
    def residuals(self) -> tuple[float, ...]:
        """By what share each measurement lies above the law."""
        return tuple(steps / self.predict(batch) - 1 for batch, steps in zip(self.batches, self.steps, strict=True))

    @property
    def critical(self) -> float:
        """B*: the law needs (1 + overhead) times the examples of `optimal` there. inf where it never does.

        With alpha = 1 this is (1 + overhead) B_opt + overhead b / a.
        """
        bound = (1 + self.overhead) * self.examples(self.optimal)
        if self.a == 0 and self.alpha >= 1:
            return math.inf
        low = self.optimal
        if self.alpha > 1:  # examples fall at first
            low = max(low, (self.b * (self.alpha - 1) / self.a) ** (1 / self.alpha))
        high = 2 * low
        while self.examples(high) < bound:
            low, high = high, 2 * high
        for _ in range(80):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.examples(middle) < bound else (low, middle)
        return high

    @property
    def extrapolated(self) -> bool:
        """Whether `critical` lies beyond every batch size that was measured."""
        return self.critical > max(self.batches)

    def without_one(self) -> tuple[float, float]:
        """The least and the largest B* of laws that are fitted with one batch size left out: how sure it is."""
        pairs = list(zip(self.batches, self.steps, strict=True))
        found = [
            _fitted([pair for pair in pairs if pair[0] != out], self.alpha, self.optimal, self.overhead).critical
            for out in set(self.batches)
        ]
        return min(found), max(found)


def fit(
    batch_sizes: Sequence[float],
    steps: Sequence[float],
    *,
    alpha: float | None = 1.0,
    optimal: float | None = None,
    overhead: float = 0.2,
) -> Law:
    """Least squares on log(steps), with a and b no less than 0 (2410.21676, section 3; the paper has alpha 1).

    alpha    None fits it too, between 0.05 and 4
    optimal  B_opt; by default the batch size that took the fewest examples

    NormcError for fewer than three batch sizes (four if alpha is fitted), and numbers that aren't positive.
    """
    sizes, counts = (
        [_positive(f"one of {name}", value) for value in items(name, values, "give a list of numbers")]
        for name, values in (("batch_sizes", batch_sizes), ("steps", steps))
    )
    if len(sizes) != len(counts):
        raise NormcError(f"{len(sizes)} batch sizes and {len(counts)} numbers of steps", "give one for each")
    pairs = sorted(zip(sizes, counts, strict=True))
    needed = LEAST if alpha is not None else LEAST + 1
    if len({batch for batch, _ in pairs}) < needed:
        raise NormcError(f"a law can't be fitted to fewer than {needed} batch sizes", "measure more of them")
    alpha = None if alpha is None else _positive("alpha", alpha, "give a positive number, or None to fit it")
    overhead = _positive("overhead", overhead, "give a positive share, as 0.2")
    optimal = None if optimal is None else _positive("optimal", optimal, "give a batch size that was run")
    best = optimal or min(pairs, key=lambda pair: pair[0] * pair[1])[0]
    if alpha is None:
        alpha = _lowest(lambda value: _solved(pairs, value)[0], *_ALPHAS)
    return _fitted(pairs, alpha, best, overhead)


def _fitted(pairs: Sequence[tuple[float, float]], alpha: float, optimal: float, overhead: float) -> Law:
    _, a, b = _solved(pairs, alpha)
    batches, steps = zip(*pairs, strict=True)
    return Law(a, b, alpha, optimal, overhead, batches, steps)


def _solved(pairs: Sequence[tuple[float, float]], alpha: float) -> tuple[float, float, float]:
    """The sum of squares of logarithms, a and b. For a given b / a the best a is a mean, so one number is searched."""

    def of(ratio: float) -> tuple[float, float, float]:
        spread, mean = _spread([math.log(steps / (1 + ratio * batch**-alpha)) for batch, steps in pairs])
        return spread, mean, ratio * mean

    lowest = alpha * math.log(min(pairs)[0]) - 12
    highest = alpha * math.log(max(pairs)[0]) + 12
    ratio = math.exp(_lowest(lambda value: of(math.exp(value))[0], lowest, highest))
    spread, b = _spread([math.log(steps * batch**alpha) for batch, steps in pairs])
    return min(((spread, 0.0, b), of(0.0), of(ratio)), key=lambda found: found[0])


def _spread(logs: Sequence[float]) -> tuple[float, float]:
    """The sum of squared distances from the mean, and the mean as no logarithm any more."""
    mean = math.fsum(logs) / len(logs)
    return math.fsum((value - mean) ** 2 for value in logs), math.exp(mean)


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where `function` is least in [low, high]: a scan, then a golden section around the lowest point."""
    count = 40
    points = [low + (high - low) * k / count for k in range(count + 1)]
    place = min(range(count + 1), key=lambda k: function(points[k]))
    low, high = points[max(place - 1, 0)], points[min(place + 1, count)]
    golden = (math.sqrt(5) - 1) / 2
    one, two = high - golden * (high - low), low + golden * (high - low)
    at_one, at_two = function(one), function(two)
    for _ in range(60):
        if at_one <= at_two:
            high, two, at_two = two, one, at_one
            one = high - golden * (high - low)
            at_one = function(one)
        else:
            low, one, at_one = one, two, at_two
            two = low + golden * (high - low)
            at_two = function(two)
    return (low + high) / 2


def _positive(
    name: str, value: float, fix: str = "give a positive number; leave out runs that never got there"
) -> float:
    return number(name, value, fix, lambda value: value > 0)
