"""Odd polynomials that come closest to one on an interval, composed step by step (Polar Express, arXiv 2505.16932).

Everything here is plain float arithmetic without powers or logarithms in what decides a coefficient, so that every
machine derives the same ones; `image` is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

Coefficients = tuple[float, float, float]
Interval = tuple[float, float]

# The polynomial of a degree that is flattest at one: the classic Newton-Schulz step.
FLAT: dict[int, Coefficients] = {3: (1.5, -0.5, 0.0), 5: (1.875, -1.25, 0.375)}
_POINT = 1 - 5e-6  # an interval as narrow as this counts as a point: the best polynomial is flat there
_MISSED = Fraction(1, 10**20)


def value(polynomial: Coefficients, s: float) -> float:
    """a s + b s^3 + c s^5."""
    a, b, c = polynomial
    return s * (a + s * s * (b + s * s * c))


def stretched(polynomial: Coefficients, factor: float) -> Coefficients:
    """The polynomial of s / factor."""
    a, b, c = polynomial
    square = factor * factor
    return a / factor, b / (square * factor), c / (square * square * factor)


def closest(degree: int, low: float, high: float) -> Coefficients:
    """The odd polynomial of a degree (3 or 5) whose largest distance from one on [low, high] is least.

    It is the one that meets its largest error with alternating signs at both ends and at each of its extrema.
    """
    if low >= high * _POINT:
        return stretched(FLAT[degree], (low + high) / 2)
    return stretched(_cubic(low / high) if degree == 3 else _quintic(low / high), high)


def _cubic(low: float) -> Coefficients:
    """On [low, 1]: scale (3 m^2 s - s^3), whose only extremum is at m; equal values at both ends give m."""
    square = (1 + low + low * low) / 3
    extremum = math.sqrt(square)
    scale = 2 / (2 * square * extremum + low * (3 * square - low * low))
    return 3 * scale * square, -scale, 0.0


def _quintic(low: float) -> Coefficients:
    """On [low, 1]: the integral of scale (s^2 - q^2) (s^2 - r^2), with a maximum at q and a minimum at r.

    Its values at `low` and r have to be equal, and so have those at q and 1. Each condition has a double root that is
    divided out: the first is then linear in q^2, and the second is solved for r, between `low` and 1, by halving.
    """
    left, right = low, 1.0
    while left < (r := (left + right) / 2) < right:
        q = math.sqrt(_first_extremum(low, r))
        excess = 3 + 6 * q + 4 * q * q - 5 * r * r + 2 * q * (q * q - 5 * r * r)
        left, right = (r, right) if excess > 0 else (left, r)
    first, second = _first_extremum(low, r), r * r
    shape = first * second, -(first + second) / 3, 0.2
    scale = 2 / (value(shape, math.sqrt(first)) + value(shape, r))
    return scale * shape[0], scale * shape[1], scale * shape[2]


def _first_extremum(low: float, r: float) -> float:
    """The square of q that gives the quintic equal values at `low` and r."""
    return (3 * low * low * low + 6 * r * low * low + 4 * r * r * low + 2 * r * r * r) / (5 * low + 10 * r)


def chain(degree: int, lower: float, cushion: float = 0.0, safety: float = 1.0) -> Iterator[tuple[Coefficients, ...]]:
    """The best compositions of one, two, three... polynomials for singular values that start in [lower, 1].

    Each step is the best one for where the steps before it leave them, and that composition is the best of all.

    safety    every step but the last is one of s / safety: it stands values that rounding lifted over its interval.
    cushion   no step is made for a ratio of least to largest value below this, which would send some values in between
              close to zero; its result is centred around one all the same.
    """
    low, high = lower, 1.0
    safe: tuple[Coefficients, ...] = ()
    while True:
        best = closest(degree, max(low, cushion * high), high)
        if cushion * high > low:
            centre = 2 / sum(image(best, (low, high)))
            best = best[0] * centre, best[1] * centre, best[2] * centre
        yield (*safe, best)
        safe = (*safe, stretched(best, safety))
        low, most = image(safe[-1], (low, high))
        high = max(most, 2 - low)


def image(polynomial: Coefficients, interval: Interval) -> Interval:
    """Least and largest value of a polynomial on an interval, rounded outwards: exact for the coefficients as floats.

    An extremum inside is found to 1e-15 of itself, and the values are flat there: 1e-20 covers what is missed.
    """
    a, b, c = map(Fraction, polynomial)
    low, high = interval
    least, most = sorted(s * (a + s * s * (b + s * s * c)) for s in map(Fraction, interval))
    for at in _extrema(polynomial):
        for s in (Fraction(at), Fraction(-at)):
            if low < s < high:
                extremum = s * (a + s * s * (b + s * s * c))
                least, most = min(least, extremum - _MISSED), max(most, extremum + _MISSED)
    return _rounded(least, -math.inf), _rounded(most, math.inf)


def _rounded(number: Fraction, towards: float) -> float:
    """The nearest float that isn't on the wrong side."""
    near = float(number)
    wrong = near > number if towards < 0 else near < number
    return math.nextafter(near, towards) if wrong else near


def _extrema(polynomial: Coefficients) -> list[float]:
    """Where the derivative a + 3 b s^2 + 5 c s^4 is zero, s > 0."""
    a, b, c = polynomial[0], 3 * polynomial[1], 5 * polynomial[2]
    if c == 0:
        squares = [-a / b] if b != 0 else []
    else:
        inside = b * b - 4 * a * c
        if inside < 0:
            return []
        larger = -(b + math.copysign(math.sqrt(inside), b)) / 2
        squares = [larger / c, a / larger if larger != 0 else 0.0]
    return [math.sqrt(square) for square in squares if square > 0]


def images(steps: tuple[Coefficients, ...], interval: Interval) -> tuple[Interval, ...]:
    """Where each step of a composition leaves the singular values of an interval."""
    found = []
    for polynomial in steps:
        interval = image(polynomial, interval)
        found.append(interval)
    return tuple(found)
