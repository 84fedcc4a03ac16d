"""A composition of odd polynomials with the interval that it guarantees, and the best one for what is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from itertools import islice
from typing import Literal

from normc.errors import NormcError
from normc.update.polynomials.minimax import FLAT, Coefficients, Interval, chain, images

Auto = Literal["auto"]

MOST_STEPS = 30
LOWER = 1e-3  # near the rounding of bf16, 2^-8: what is smaller is mostly noise
LEAST = 1e-12  # below it float64 can't say a minimax polynomial any more
TOLERANCE = 0.3


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Odd polynomials composed, one a step.

    `intervals` says where singular values of [lower, 1] are after each step, in exact arithmetic.
    """

    name: str
    steps: tuple[Coefficients, ...]
    lower: float
    intervals: tuple[Interval, ...]

    @property
    def leaves(self) -> Interval:
        """Least and largest singular value at the end."""
        return self.intervals[-1] if self.intervals else (1.0, 1.0)

    @property
    def error(self) -> float:
        """The largest distance from one at the end."""
        return max(1 - self.leaves[0], self.leaves[1] - 1)

    @property
    def products(self) -> int:
        """Matrix products of all steps: two for a cubic, three for a quintic."""
        return sum(3 if c != 0 else 2 for _, _, c in self.steps)

    @property
    def growth(self) -> float:
        """The factor by which singular values near zero grow."""
        return math.prod(a for a, _, _ in self.steps)

    def __str__(self) -> str:
        if not self.steps:
            return f"{self.name}: every singular value that is not zero becomes one, by an SVD"
        number = f"{len(self.steps)} steps" if len(self.steps) > 1 else "1 step"
        kept = f"singular values of [{self.lower:g}, 1] end in {shown(self.leaves)}"
        lines = [
            f"{self.name}: {number}, {self.products} matrix products",
            f"  {kept}; those near zero grow {self.growth:.4g} times",
        ]
        for index, ((a, b, c), interval) in enumerate(zip(self.steps, self.intervals, strict=True), 1):
            quintic = f" {c:+.10g} s^5" if c != 0 else ""
            lines.append(f"  {index:2}  {a:.10g} s {b:+.10g} s^3{quintic}  leaves {shown(interval)}")
        return "\n".join(lines)


def shown(interval: Interval) -> str:
    """An interval as text, rounded outwards, with two digits of its least value and of its distance from one."""
    error = max(abs(1 - interval[0]), abs(1 - interval[1]))
    digits = [1 - math.floor(math.log10(size)) for size in (error, abs(interval[0])) if size > 1e-16]
    unit = Decimal(1).scaleb(-max([4, *digits]))
    low = Decimal(interval[0]).quantize(unit, ROUND_FLOOR)
    high = Decimal(interval[1]).quantize(unit, ROUND_CEILING)
    return f"[{low}, {high}]"


def composed(name: str, steps: tuple[Coefficients, ...], lower: float = LOWER) -> Polynomial:
    """Any composition, with what it guarantees for singular values of [lower, 1]. NormcError for a bad `lower`."""
    if not 0 < lower < 1:
        raise NormcError(f"singular values can't start in [{lower:g}, 1]", "give a lower between 0 and 1, as 1e-3")
    return Polynomial(name, steps, lower, images(steps, (lower, 1.0)))


@lru_cache(maxsize=256)
def polar(
    degree: int = 5,
    steps: int | Auto = "auto",
    tolerance: float | None = None,
    lower: float | Auto = LOWER,
    safety: float = 1.0,
    cushion: float = 0.0,
    name: str = "minimax",
) -> Polynomial:
    """The composition of odd polynomials that comes closest to one on [lower, 1] (Polar Express, arXiv 2505.16932).

    degree      3 or 5.
    steps       "auto": the fewest that come within the tolerance.
    tolerance   the largest distance from one that is allowed; None: .3 where something is "auto", else any.
    lower       "auto": the least for which the steps come within the tolerance. That is also the composition that
                grows fastest at zero among those that leave nothing further from one (CANS, arXiv 2506.10935).
    safety      every step but the last stands values that rounding has made larger than they can be by this factor.
    cushion     no step is made for values further apart than this: see `minimax.chain`.

    NormcError for numbers out of range, and where the tolerance can't be met.
    """
    auto = [what for what, given in (("steps", steps), ("lower", lower)) if given == "auto"]
    bound = TOLERANCE if tolerance is None and auto else tolerance
    _check(degree, steps, bound, lower, safety, cushion)
    if len(auto) == 2:
        raise NormcError("steps and lower can't both be auto", "give one of them, as lower=1e-3")
    if steps == "auto":
        assert bound is not None
        assert lower != "auto"
        return _fewest(degree, bound, lower, safety, cushion, name)
    if lower == "auto":
        assert bound is not None
        lower = _least(degree, steps, bound, safety, cushion)
    found = composed(name, _nth(degree, steps, lower, safety, cushion), lower)
    if bound is not None and found.error > bound * (1 + 1e-9):
        raise _unmet(bound, found)
    return found


def counted(steps: object) -> int:
    """A number of steps. NormcError if it is none, or none that is run."""
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MOST_STEPS:
        fix = f"use ns_steps of 1 to {MOST_STEPS}, or polynomial='exact'"
        raise NormcError(f"Newton-Schulz can't run {steps} steps", fix)
    return steps


def _check(
    degree: int, steps: int | Auto, tolerance: float | None, lower: float | Auto, safety: float, cushion: float
) -> None:
    if degree not in FLAT:
        raise NormcError(f"no polynomial of degree {degree} is computed", "give degree 3 or 5")
    if steps != "auto":
        counted(steps)
    if not isinstance(lower, str) and not LEAST <= lower < 1:
        raise NormcError(f"singular values can't start in [{lower}, 1]", f"give a lower from {LEAST:g} to 1, as 1e-3")
    if tolerance is not None and not 1e-12 <= tolerance < 1:
        raise NormcError(f"no polynomial has a tolerance of {tolerance}", "give one from 1e-12 to 1, as 0.3")
    if not 1 <= safety <= 2:
        raise NormcError(f"a safety factor can't be {safety}", "give one from 1 to 2, as 1.01")
    if not 0 <= cushion < 1:
        raise NormcError(f"a cushion can't be {cushion}", "give one from 0 to 1, as 0.02")


def _nth(degree: int, steps: int, lower: float, safety: float, cushion: float) -> tuple[Coefficients, ...]:
    return next(islice(chain(degree, lower, cushion, safety), steps - 1, None))


def _fewest(degree: int, tolerance: float, lower: float, safety: float, cushion: float, name: str) -> Polynomial:
    for steps in islice(chain(degree, lower, cushion, safety), MOST_STEPS):
        found = composed(name, steps, lower)
        if found.error <= tolerance:
            return found
    raise _unmet(tolerance, found)


def _least(degree: int, steps: int, tolerance: float, safety: float, cushion: float) -> float:
    """The least lower, to a millionth of itself, for which so many steps come within the tolerance."""

    def tried(lower: float) -> Polynomial:
        return composed("", _nth(degree, steps, lower, safety, cushion), lower)

    low, high = LEAST, 1 - 1e-3
    if (found := tried(high)).error > tolerance:
        raise _unmet(tolerance, found)
    if tried(low).error <= tolerance:
        return low
    while high > low * (1 + 1e-6):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if tried(middle).error <= tolerance else (middle, high)
    return high


def _unmet(tolerance: float, found: Polynomial) -> NormcError:
    return NormcError(
        f"{len(found.steps)} steps leave singular values of [{found.lower:g}, 1] in {shown(found.leaves)}, "
        f"further from one than {tolerance:g}",
        "allow a larger tolerance, more steps or a larger lower, or a smaller safety factor",
    )
