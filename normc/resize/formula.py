"""A row's scale as a formula: its law of depth found from plans at other depths, and checked against all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import sympy

from normc.plans.plan import NormPlan
from normc.plans.row import KERNEL, Row
from normc.resize.repeat import Stack

# The number of blocks.
L = sympy.Symbol("L", positive=True)
_CLOSE = 1e-9
_POWERS = tuple(Fraction(p, 2) for p in range(-4, 5))


class Law(NamedTuple):
    """`formula` in d_out, d_in, k and L; `note` says what it holds for, or that no law was found."""

    formula: sympy.Expr
    note: str


def law(plan: NormPlan, row: Row, stack: Stack | None, at: Callable[[NormPlan, int], NormPlan]) -> Law:
    """The law of a row. `at` gives the plan with another number of blocks; it is asked three times at most."""
    if not row.target or row.mass is None:
        return Law(row.scale.formula, "")
    shape = (row.scale.formula / row.target).subs(KERNEL, 1) if row.kernel == 1 else row.scale.formula / row.target
    shape = sympy.Mul(*(number(float(f)) if f.is_Float else f for f in sympy.Mul.make_args(shape)))
    if stack is None:
        return Law(number(row.target) * shape, "")
    points = [(stack.length, row.mass, row.mass / row.target)]
    for length in _lengths(stack, row.name):
        other = at(plan, length)[_name_at(stack, row.name, length)]
        if not other.mass or not other.target:
            return Law(number(row.target) * shape, "")
        points.append((length, other.mass, other.mass / other.target))
    mass, gain = _shares([(n, m) for n, m, _ in points]), _law([(n, g) for n, _, g in points])
    if mass is None or gain is None:
        found = number(row.target) if mass is None else mass / number(row.mass / row.target)
        return Law(found * shape, f"S R at L = {stack.length}: it follows no power of L")
    return Law(
        sympy.powsimp(mass / gain * shape), f"for any L, the number of {stack.name or 'block'}s".replace("ss", "s")
    )


def _lengths(stack: Stack, name: str) -> list[int]:
    """Three other depths, no larger than need be, at which the row is there."""
    block = stack.block(name)
    least = stack.length - (len(stack.windows) - 1) * stack.period
    if block in stack.repeating:
        assert block is not None
        least += max(0, (block - stack.first) // stack.period) * stack.period
    found = [least + i * stack.period for i in range(5)]
    return [length for length in found if length != stack.length][:3]


def _name_at(stack: Stack, name: str, length: int) -> str:
    block = stack.block(name)
    if block is None or block <= stack.repeating[-1]:
        return name
    return stack.renamed(name, stack.numbers[block] + (length - stack.length) // stack.period * stack.step)


def _shares(points: Sequence[tuple[int, float]]) -> sympy.Expr | None:
    """A mass: 1 / (a + b L)."""
    found = _linear([(n, 1 / m) for n, m in points])
    return None if found is None else 1 / sympy.factor_terms(found)


def _law(points: Sequence[tuple[int, float]]) -> sympy.Expr | None:
    """c L^p, or a root or reciprocal of a + b L. None if none of them gives all points."""
    n, first = points[0]
    for power in sorted(_POWERS, key=abs):
        found = first / n ** float(power)
        if all(math.isclose(found * n ** float(power), y, rel_tol=_CLOSE) for n, y in points):
            return number(found) * L ** sympy.Rational(power.numerator, power.denominator)
    for power in (2, -2, 1, -1):
        inside = _linear([(n, y**power) for n, y in points])
        if inside is not None:
            return sympy.factor_terms(inside) ** sympy.Rational(1, power)
    return None


def _linear(points: Sequence[tuple[int, float]]) -> sympy.Expr | None:
    (n, first), (m, second), *_ = points
    slope = (second - first) / (m - n)
    start = first - slope * n
    if not all(math.isclose(start + slope * n, y, rel_tol=_CLOSE) for n, y in points):
        return None
    size = max(abs(first), abs(second))
    return (number(slope) if abs(slope) > 1e-10 * size else 0) * L + (number(start) if abs(start) > 1e-10 * size else 0)


def number(value: float) -> sympy.Expr:
    """A number as a fraction or its root, where it is one to eleven digits."""
    for power in (1, 2):
        found = Fraction(value**power).limit_denominator(5000)
        if found and math.isclose(float(found), value**power, rel_tol=1e-11):
            return sympy.Rational(found.numerator, found.denominator) ** sympy.Rational(1, power)
    return sympy.Float(value)
