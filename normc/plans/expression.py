"""Formulas of a scale as plain data: a small closed grammar, written and read without ever evaluating text.

    formula := number | "d_out" | "d_in" | "k" | [op, formula, ...]
    op      := "add" | "mul" | "max" | "min" (two or more) | "div" (two) | "sqrt" (one) | "pow" (a formula, an exponent)

In memory a formula is nested tuples. An exponent is an integer or ["div", p, q], at most 16 in size, and powers of
powers share that bound: no formula can be made to compute for long.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache

import sympy

from normc.errors import NormcError
from normc.plans.row import D_IN, D_OUT, KERNEL

Formula = str | int | float | tuple["Formula", ...]

SYMBOLS: Mapping[str, sympy.Symbol] = {symbol.name: symbol for symbol in (D_OUT, D_IN, KERNEL)}
_ARGUMENTS = {
    "add": (2, 64),
    "mul": (2, 64),
    "max": (2, 64),
    "min": (2, 64),
    "div": (2, 2),
    "sqrt": (1, 1),
    "pow": (2, 2),
}
_DEPTH, _POWER, _LARGEST = 24, 16, 2**53
_FIX = "use finite numbers, d_out, d_in, k, and add, mul, div, sqrt, pow, max, min of them"


def read_formula(data: object) -> sympy.Expr:
    """The formula that nested lists say. NormcError outside the grammar, and where there is no finite real value."""
    return _read_text(json.dumps(check_formula(data)))


@lru_cache(maxsize=4096)  # by text: 3 and 3.0 would be one key by value
def _read_text(text: str) -> sympy.Expr:
    found = _build(json.loads(text))
    if found.has(sympy.nan, sympy.zoo, sympy.oo, sympy.I) or found.is_extended_real is False:
        raise NormcError(f"the formula {text} has no finite real value", _FIX)
    return _build(write_formula(found))


def check_formula(data: object, depth: int = _DEPTH, power: int = _POWER) -> Formula:
    """The same data as nested tuples. NormcError for anything outside the grammar."""
    if isinstance(data, str) and data in SYMBOLS:
        return data
    if isinstance(data, int | float) and not isinstance(data, bool):
        if not abs(data) <= (_LARGEST if isinstance(data, int) else 1e100):
            raise NormcError("a number in a formula is too large, or none", _FIX)
        return data
    if not isinstance(data, list | tuple) or not data or not isinstance(data[0], str) or data[0] not in _ARGUMENTS:
        raise NormcError(f"a formula can't hold {_brief(data)}", _FIX)
    op, *args = data
    low, high = _ARGUMENTS[op]
    if not low <= len(args) <= high or depth == 0:
        raise NormcError(f"{op} has {len(args)} arguments in a formula, or lies too deep", _FIX)
    if op != "pow":
        return (op, *(check_formula(arg, depth - 1, power) for arg in args))
    size = _exponent_size(args[1])
    if size is None or size > power:
        raise NormcError(
            f"a formula can't hold the exponent {_brief(args[1])}", "use whole numbers and [div, p, q] up to 16"
        )
    return (op, check_formula(args[0], depth - 1, power // size), check_formula(args[1]))


def _brief(data: object) -> str:
    text = repr(data) if isinstance(data, str | int | float | bool | None) else type(data).__name__
    return text if len(text) < 60 else f"{text[:56]}..."


def _exponent_size(data: object) -> int | None:
    """The larger of p and |q| of an exponent; None for what is none."""
    parts = list(data[1:]) if isinstance(data, list | tuple) and len(data) == 3 and data[0] == "div" else [data]
    sizes = [abs(part) for part in parts if isinstance(part, int) and not isinstance(part, bool) and part != 0]
    return max(sizes) if len(sizes) == len(parts) else None


def _build(data: Formula) -> sympy.Expr:
    """Sympy's form of checked data, as it comes from JSON."""
    if isinstance(data, str):
        return SYMBOLS[data]
    if isinstance(data, int):
        return sympy.Integer(data)
    if isinstance(data, float):
        return sympy.Float(data)
    op, *args = data
    match op:
        case "mul" | "div":
            return sympy.Mul(*_factors(data))
        case "sqrt":
            return sympy.sqrt(_build(args[0]))
        case "pow":
            return sympy.Pow(_build(args[0]), _build(args[1]))
    return {"add": sympy.Add, "max": sympy.Max, "min": sympy.Min}[str(op)](*map(_build, args))


def _factors(data: Formula) -> list[sympy.Expr]:
    """A product's factors, multiplied in one go: sympy multiplies a number into a sum if it meets the two alone."""
    if isinstance(data, list | tuple) and data[0] == "mul":
        return [factor for arg in data[1:] for factor in _factors(arg)]
    if isinstance(data, list | tuple) and data[0] == "div":
        return [*_factors(data[1]), *(1 / factor for factor in _factors(data[2]))]
    return [_build(data)]


@lru_cache(maxsize=4096)
def write_formula(expression: sympy.Expr) -> Formula:
    """A formula as nested tuples, the same for the same formula; `read_formula` gives it back.

    NormcError for one that holds other symbols or functions than the grammar's.
    """
    data = _write(expression)
    # Sympy leaves some forms, as Max(d_out, Min(1, 2)), that it simplifies when they are built again.
    for _ in range(_DEPTH):
        again = _write(_build(data))
        if again == data:
            break
        data = again
    return data


def _write(expression: sympy.Expr) -> Formula:
    if expression.is_Integer and abs(expression) <= _LARGEST:
        return int(expression)
    if expression.is_Float and abs(expression) <= 1e100:
        return float(expression)
    if expression.is_Symbol and SYMBOLS.get(expression.name) == expression:
        return str(expression.name)
    if expression.is_Add or isinstance(expression, sympy.Max | sympy.Min):
        op = "add" if expression.is_Add else "max" if isinstance(expression, sympy.Max) else "min"
        return _join(op, [_write(arg) for arg in expression.args])
    if expression.is_Rational or expression.is_Mul or expression.is_Pow:
        return _product(expression)
    raise NormcError(f"a scale can't be {expression}", _FIX)


def _product(expression: sympy.Expr) -> Formula:
    """Numerator over denominator, the roots of plain factors gathered under one sign."""
    over: list[Formula] = []
    under: list[Formula] = []
    root_over: list[Formula] = []
    root_under: list[Formula] = []
    for factor in sympy.Mul.make_args(expression):
        if factor.is_Rational:
            over += [_write(sympy.Integer(factor.p))] if factor.p != 1 else []
            under += [_write(sympy.Integer(factor.q))] if factor.q != 1 else []
            continue
        base, exponent = factor.as_base_exp()
        if not exponent.is_Rational:
            raise NormcError(f"a scale can't be {expression}", _FIX)
        side, roots = (over, root_over) if exponent > 0 else (under, root_under)
        size, inner = abs(exponent), _write(base)
        if size == sympy.Rational(1, 2) and (base.is_Symbol or base.is_Integer):
            roots.append(inner)
        elif size == sympy.Rational(1, 2):
            side.append(("sqrt", inner))
        else:
            side.append(inner if size == 1 else check_formula(("pow", inner, _write(size))))
    if root_over and root_under:
        over.append(("sqrt", ("div", _join("mul", root_over), _join("mul", root_under))))
    elif root_over or root_under:
        (over if root_over else under).append(("sqrt", _join("mul", root_over or root_under)))
    top, bottom = _join("mul", over), _join("mul", under)
    return top if bottom == 1 and not under else ("div", top, bottom)


def _join(op: str, args: list[Formula]) -> Formula:
    """The op on its arguments in an order of their own: numbers, symbols, then the rest."""
    ordered = sorted(args, key=lambda arg: (isinstance(arg, str) + 2 * isinstance(arg, tuple), json.dumps(arg)))
    return (op, *ordered) if len(ordered) > 1 else ordered[0] if ordered else 1


def show_formula(formula: Formula, names: Mapping[str, str] | None = None, digits: int = 6) -> str:
    """A formula as people write it: `3·√(d_out/d_in)`. `names` are put in for the symbols; numbers have `digits`."""
    if isinstance(formula, str):
        return (names or {}).get(formula, formula)
    if not isinstance(formula, tuple):
        return f"{formula:.{digits}g}" if isinstance(formula, float) else str(formula)
    op, *args = formula
    texts = [show_formula(arg, names, digits) for arg in args]
    tight = [f"({t})" if _opens(arg) in ("add", "mul", "div", "pow") else t for arg, t in zip(args, texts, strict=True)]
    match op:
        case "add":
            return " + ".join(texts)
        case "mul":
            return "·".join(
                f"({text})" if _opens(arg) == "add" else text for arg, text in zip(args, texts, strict=True) if arg != 1
            )
        case "div":
            top = f"({texts[0]})" if _opens(args[0]) == "add" else texts[0]
            return f"{top}/{tight[1]}"
        case "sqrt":
            return f"√{tight[0]}"
        case "pow":
            return f"{tight[0]}^{tight[1]}"
    return f"{op}({', '.join(texts)})"


def _opens(formula: Formula) -> Formula:
    """The op that a formula is, "" for a number or a symbol."""
    return formula[0] if isinstance(formula, tuple) else ""


def value_of(formula: Formula, d_out: float, d_in: float, kernel: float) -> float:
    """A formula's number; nan where it has none (an empty tensor's 1 / 0)."""
    if isinstance(formula, str):
        return {"d_out": d_out, "d_in": d_in, "k": kernel}[formula]
    if not isinstance(formula, tuple):
        return float(formula)
    op, *args = formula
    first, *rest = (value_of(arg, d_out, d_in, kernel) for arg in args)
    try:
        match op:
            case "add":
                return math.fsum((first, *rest))
            case "mul":
                return math.prod((first, *rest))
            case "div":
                return first / rest[0]
            case "sqrt":
                return math.sqrt(first)
            case "pow":
                return float(first ** rest[0]) if first > 0 or rest[0].is_integer() else math.nan
    except (ZeroDivisionError, OverflowError, ValueError):
        return math.nan
    return max(first, *rest) if op == "max" else min(first, *rest)
