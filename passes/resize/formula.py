"""A row's scale as a formula: its law of depth found from plans at other depths, and checked against all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import sympy

from normc.passes.resize.repeat import Stack
from normc.plans.at import Law
from normc.plans.expression import show_formula, write_formula
from normc.plans.plan import NormPlan
from normc.plans.row import KERNEL, Row

# The number of blocks.
L = sympy.Symbol("L", positive=True)
_CLOSE = 1e-9
_POWERS = tuple(Fraction(p, 2) for p in range(-4, 5))


def law(plan: NormPlan, row: Row, stack: Stack | None, at: Callable[[NormPlan, int], NormPlan]) -> Law:
    """The law of a row. `at` gives the plan with another number of blocks; it is asked for three."""
    if not row.target or row.mass is None:
        return _law(sympy.Integer(1), row.scale.formula, "")
    shape = (row.scale.formula / row.target).subs(KERNEL, 1) if row.kernel == 1 else row.scale.formula / row.target
    shape = sympy.Mul(*(number(float(part)) if part.is_Float else part for part in sympy.Mul.make_args(shape)))
    points = [(row.mass, row.mass / row.target)]
    lengths = [stack.length + i * stack.period for i in range(4)] if stack is not None else []
    for length in lengths[1:]:
        assert stack is not None
        other = at(plan, length)[_name_at(stack, row.name, length)]
        if other.mass and other.target:
            points.append((other.mass, other.mass / other.target))
    if stack is None or len(points) < len(lengths):
        return _law(number(row.target), shape, "")
    masses = _shares([(n, m) for n, (m, _) in zip(lengths, points, strict=True)])
    gain = _power([(n, g) for n, (_, g) in zip(lengths, points, strict=True)])
    of = f" of {stack.name}" if stack.name else ""
    where = f"for L blocks{of}, {stack.length} here"
    if masses is None or gain is None:
        found = number(row.target) if masses is None else masses / number(row.mass / row.target)
        return _law(found, shape, f"{where}; S and R as they are here: they follow no simple law")
    return _law(masses / gain, shape, where)


def _law(factor: sympy.Expr, shape: sympy.Expr, note: str) -> Law:
    factor = sympy.powsimp(factor)
    plain = show_formula(write_formula(shape))
    short = factor.xreplace({part: sympy.Float(part, 6) for part in factor.atoms(sympy.Float)})
    text = str(short).replace("sqrt", "√").replace("**", "^").replace("*", "·")
    text = plain if factor == 1 else text if shape == 1 else f"{text}·{plain}"
    return Law(factor * shape, text, note)


def _name_at(stack: Stack, name: str, length: int) -> str:
    block = stack.block(name)
    if block is None or block <= stack.repeating[-1]:
        return name
    return stack.renamed(name, stack.numbers[block] + (length - stack.length) // stack.period * stack.step)


def _shares(points: Sequence[tuple[int, float]]) -> sympy.Expr | None:
    """A mass: 1 / (a + b L)."""
    found = _linear([(n, 1 / m) for n, m in points])
    return None if found is None else 1 / sympy.factor_terms(found)


def _power(points: Sequence[tuple[int, float]]) -> sympy.Expr | None:
    """c L^p, a root or reciprocal of a + b L, or c b^L. None if none of them gives all points."""
    (start, first), (then, second), *_ = points
    for power in sorted(_POWERS, key=abs):
        found = first / start ** float(power)
        if all(math.isclose(found * n ** float(power), y, rel_tol=_CLOSE) for n, y in points):
            return number(found) * L ** sympy.Rational(power.numerator, power.denominator)
    for order in (2, -2, 1, -1):
        inside = _linear([(n, y**order) for n, y in points])
        if inside is not None:
            return sympy.factor_terms(inside) ** sympy.Rational(1, order)
    base = (second / first) ** (1 / (then - start))
    if all(math.isclose(first * base ** (n - start), y, rel_tol=_CLOSE) for n, y in points):
        return number(first / base**start) * number(base) ** L
    return None


def _linear(points: Sequence[tuple[int, float]]) -> sympy.Expr | None:
    (n, first), (m, second), *_ = points
    slope = (second - first) / (m - n)
    start = first - slope * n
    if not all(math.isclose(start + slope * n, y, rel_tol=_CLOSE) for n, y in points):
        return None
    least = 1e-10 * max(abs(first), abs(second))
    terms = [number(slope) * L if abs(slope) > least else 0, number(start) if abs(start) > least else 0]
    return sympy.Add(*terms)


def number(value: float) -> sympy.Expr:
    """A number as a fraction or its root, where it is one to eleven digits."""
    for power in (1, 2):
        found = Fraction(value**power).limit_denominator(5000)
        if found and math.isclose(float(found), value**power, rel_tol=1e-11):
            return sympy.Rational(found.numerator, found.denominator) ** sympy.Rational(1, power)
    return sympy.Float(value)
