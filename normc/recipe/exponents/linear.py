"""Exact linear programs of a few variables, and the least of several affine forms, in rational numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from normc.errors import NormcError

Form = tuple[Fraction, ...]  # a constant, then the coefficient of each variable
_NEAR = Fraction(1, 1000)


@dataclass(frozen=True)
class Least:
    """The least of some affine forms of the same variables. Sums and minima of such are such again."""

    forms: frozenset[Form]

    @staticmethod
    def constant(value: Fraction, count: int) -> Least:
        """A number, as a form of `count` variables."""
        return Least(frozenset({(value, *[Fraction(0)] * count)}))

    @staticmethod
    def variable(place: int, count: int) -> Least:
        """The variable at `place` of `count`."""
        return Least(frozenset({tuple(Fraction(other == place + 1) for other in range(count + 1))}))

    def __add__(self, other: Least | Fraction) -> Least:
        if isinstance(other, Fraction):
            return Least(frozenset((form[0] + other, *form[1:]) for form in self.forms))
        pairs = ((one, two) for one in self.forms for two in other.forms)
        return Least(frozenset(tuple(x + y for x, y in zip(one, two, strict=True)) for one, two in pairs))

    def __sub__(self, other: Fraction) -> Least:
        return self + -other

    def __and__(self, other: Least) -> Least:
        return Least(self.forms | other.forms)

    def at(self, point: Sequence[Fraction]) -> Fraction:
        """Its value where the variables have these values."""
        return min(form[0] + _dot(form[1:], point) for form in self.forms)


def minimise_sum(bounded: Iterable[Least]) -> tuple[Fraction, ...]:
    """The one point with the least sum of coordinates at which every one of `bounded` is at least 0.

    A corner is optimal if (1, ..., 1) lies in the cone of the forms that are 0 there, and the only optimum if it lies
    inside of it, which nearby directions tell (coefficients are small integers). NormcError for none, or several.
    """
    rows = sorted({form for least in bounded for form in least.forms})
    count = len(rows[0]) - 1
    ones = (Fraction(1),) * count
    for some in combinations(rows, count):
        if not _in_cone(some, ones):
            continue
        corner = _solve([form[1:] for form in some], [-form[0] for form in some])
        slacks = [form[0] + _dot(form[1:], corner or ones) for form in rows]
        if corner is None or min(slacks) < 0:
            continue
        tight = [form for form, slack in zip(rows, slacks, strict=True) if slack == 0]
        near = [(*ones[:place], 1 + by, *ones[place + 1 :]) for place in range(count) for by in (_NEAR, -_NEAR)]
        if all(_in_cone(tight, direction) for direction in near):
            return corner
        break
    raise NormcError(
        "no learning rates are the largest: these exponents and alignments leave none, or a choice of several",
        'give alignments with u no larger than alpha, as "full" and "none" have',
    )


def _in_cone(rows: Sequence[Form], direction: Sequence[Fraction]) -> bool:
    """Whether `direction` is a combination of the rows' coefficients with no negative weight."""
    for some in combinations(rows, len(direction)):
        weights = _solve(list(zip(*(form[1:] for form in some), strict=True)), direction)
        if weights is not None and min(weights) >= 0:
            return True
    return False


def _dot(one: Sequence[Fraction], two: Sequence[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(one, two, strict=True)), Fraction(0))


def _solve(matrix: Sequence[Sequence[Fraction]], right: Sequence[Fraction]) -> tuple[Fraction, ...] | None:
    """The solution of a square system by elimination; None where it is singular."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(len(rows)):
        pivot = next((place for place in range(column, len(rows)) if rows[place][column]), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for place, row in enumerate(rows):
            if place != column and row[column]:
                rows[place] = [x - row[column] * y for x, y in zip(row, rows[column], strict=True)]
    return tuple(row[-1] for row in rows)
