"""Newton-Schulz polynomials by name or computed: (a, b, c) per step, for singular values that start in (0, 1].

A text names them: "keller", "polar-express", "minimax:lower=1e-4,tolerance=0.1". Each comes with the interval that it
guarantees.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from itertools import islice
from typing import Literal

from normc.errors import NormcError
from normc.update.minimax import FLAT, Coefficients, Interval, chain, images, stretched

Auto = Literal["auto"]

MOST_STEPS = 30
LOWER = 1e-3  # near the rounding of bf16, 2^-8: what is smaller is mostly noise
TOLERANCE = 0.3

# Keller Jordan's, as in torch.optim.Muon: steep at zero, and never closer to one than .3.
KELLER: Coefficients = (3.4445, -4.7750, 2.0315)


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
        lines = [
            f"{self.name}: {number}, {self.products} matrix products",
            f"  singular values of [{self.lower:g}, 1] end in {shown(self.leaves)}; those near zero grow "
            f"{self.growth:.4g} times",
        ]
        for index, ((a, b, c), interval) in enumerate(zip(self.steps, self.intervals, strict=True), 1):
            quintic = f" {c:+.10g} s^5" if c != 0 else ""
            lines.append(f"  {index:2}  {a:.10g} s {b:+.10g} s^3{quintic}  leaves {shown(interval)}")
        return "\n".join(lines)


def shown(interval: Interval) -> str:
    """An interval as text, rounded outwards to two digits of its distance from one, and four at least."""
    error = max(abs(1 - interval[0]), abs(1 - interval[1]), 1e-15)
    unit = Decimal(1).scaleb(-max(4, 1 - math.floor(math.log10(error))))
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
        assert not isinstance(lower, str)
        return _fewest(degree, bound, lower, safety, cushion, name)
    if isinstance(lower, str):
        assert bound is not None
        lower = _least(degree, steps, bound, safety, cushion)
    found = composed(name, _nth(degree, steps, lower, safety, cushion), lower)
    if bound is not None and found.error > bound * (1 + 1e-9):
        raise _unmet(bound, found)
    return found


def _check(
    degree: int, steps: int | Auto, tolerance: float | None, lower: float | Auto, safety: float, cushion: float
) -> None:
    if degree not in FLAT:
        raise NormcError(f"no polynomial of degree {degree} is computed", "give degree 3 or 5")
    if not isinstance(steps, str) and not (isinstance(steps, int) and 1 <= steps <= MOST_STEPS):
        raise NormcError(f"Newton-Schulz can't run {steps} steps", f"give 1 to {MOST_STEPS} steps")
    if isinstance(steps, str) and steps != "auto":
        raise NormcError(f"Newton-Schulz can't run {steps!r} steps", "give a number, or auto")
    if not (lower == "auto" or (not isinstance(lower, str) and 1e-30 <= lower < 1)):
        raise NormcError(f"singular values can't start in [{lower}, 1]", "give a lower from 1e-30 to 1, as 1e-3")
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
    """The least lower, to 1e-9 of itself, for which so many steps come within the tolerance."""

    def tried(lower: float) -> Polynomial:
        return composed("", _nth(degree, steps, lower, safety, cushion), lower)

    low, high = 1e-30, 1 - 1e-3
    if (found := tried(high)).error > tolerance:
        raise _unmet(tolerance, found)
    while high > low * (1 + 1e-9):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if tried(middle).error <= tolerance else (middle, high)
    return high


def _unmet(tolerance: float, found: Polynomial) -> NormcError:
    return NormcError(
        f"{len(found.steps)} steps leave singular values of [{found.lower:g}, 1] in {shown(found.leaves)}, "
        f"further from one than {tolerance:g}",
        "allow a larger tolerance, more steps or a larger lower, or a smaller safety factor",
    )


def _exact(steps: int) -> Polynomial:
    return Polynomial("exact", (), LOWER, ())


def _keller(steps: int, lower: float = LOWER) -> Polynomial:
    return composed("keller", (KELLER,) * steps, lower)


def _newton_schulz(steps: int, degree: int = 5, lower: float = LOWER) -> Polynomial:
    if degree not in FLAT:
        raise NormcError(f"Newton-Schulz has no step of degree {degree}", "give degree 3 or 5")
    return composed("newton-schulz", (FLAT[degree],) * steps, lower)


def _polar_express(steps: int, lower: float = LOWER, safety: float = 1.02, cushion: float = 0.02) -> Polynomial:
    """The paper's chain with a safety factor inside, and its input divided by that factor too, as its users run it."""
    made = polar(5, steps, None, lower, safety, cushion)
    return composed("polar-express", (stretched(made.steps[0], safety), *made.steps[1:]), lower)


def _cans(
    steps: int | Auto, degree: int = 5, tolerance: float | None = None, lower: float | Auto = "auto"
) -> Polynomial:
    return polar(degree, steps, tolerance, lower, name="cans")


def _minimax(
    steps: int | Auto,
    degree: int = 5,
    tolerance: float | None = None,
    lower: float | Auto = LOWER,
    safety: float = 1.0,
    cushion: float = 0.0,
) -> Polynomial:
    return polar(degree, steps, tolerance, lower, safety, cushion)


@dataclass(frozen=True, slots=True)
class Family:
    """Polynomials that one name stands for: what they are, from where, and how they are made for a number of steps."""

    summary: str
    source: str
    make: Callable[..., Polynomial]

    @property
    def options(self) -> dict[str, object]:
        """What may be said of them after the name, with defaults."""
        known = inspect.signature(self.make).parameters
        return {name: None if value.default is value.empty else value.default for name, value in known.items()}


families: dict[str, Family] = {
    "exact": Family("an SVD in float64", "", _exact),
    "keller": Family("steep at zero, within about .3 of one", "Keller Jordan's Muon; torch.optim.Muon", _keller),
    "polar-express": Family("closest to one, safe in bf16", "arXiv 2505.16932, with modded-nanogpt's numbers", _polar_express),
    "cans": Family("grows fastest within a tolerance; with lower=, closest to one", "arXiv 2506.10935", _cans),
    "newton-schulz": Family("flat at one: slow at first, then exact", "Kovarik 1970, Bjorck and Bowie 1971", _newton_schulz),
    "minimax": Family("closest to one on [lower, 1]", "computed for the numbers given", _minimax),
}  # fmt: skip


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@lru_cache(maxsize=256)
def polynomial(text: str, steps: int) -> Polynomial:
    """The polynomials that a text names, `steps` of them: "keller", "minimax:lower=1e-4,tolerance=0.1".

    `steps=` in the text goes before `steps`. A tolerance without steps chooses their number, where lower is a number.
    NormcError for an unknown name or option, for one out of range, and for a tolerance that can't be met.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if name not in families:
        raise NormcError(f"no polynomial is called {name!r}", f"{_near(name, families)}known: {', '.join(families)}")
    known = families[name].options
    given: dict[str, object] = {}
    for item in rest.split(",") if colon else ():
        key, equals, word = (part.strip() for part in item.partition("="))
        if key not in known or not equals:
            raise NormcError(
                f"the polynomial {name} has no option {key!r}",
                f"{_near(key, known)}known: {', '.join(known) or 'none'}",
            )
        if key in given:
            raise NormcError(f"the polynomial {name} is given {key} twice", "give it once")
        given[key] = _value(name, key, word)
    chosen = "tolerance" in given and ({"lower": None, **known, **given})["lower"] != "auto"
    return families[name].make(**{"steps": "auto" if chosen else _counted(steps), **given})


def polynomials(text: str, steps: int) -> tuple[Coefficients, ...]:
    """The coefficients (a, b, c) of each step of `polynomial`; none for "exact"."""
    return polynomial(text, steps).steps


def _counted(steps: int) -> int:
    if not 1 <= steps <= MOST_STEPS:
        fix = f"use ns_steps of 1 to {MOST_STEPS}, or polynomial='exact'"
        raise NormcError(f"Newton-Schulz can't run {steps} steps", fix)
    return steps


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _value(name: str, key: str, word: str) -> object:
    if word == "auto" and key in ("steps", "lower"):
        return word
    if not _NUMBER.fullmatch(word):
        raise NormcError(f"{key} of the polynomial {name} can't be {word!r}", "give a number, as 1e-3")
    if key not in ("steps", "degree"):
        return float(word)
    if not word.isdecimal():
        raise NormcError(f"{key} of the polynomial {name} can't be {word!r}", "give a whole number")
    return _counted(int(word)) if key == "steps" else int(word)
