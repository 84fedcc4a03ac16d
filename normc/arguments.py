"""Arguments of public calls, held against what they should be: one error says which, what it is, and what to give."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar

from normc.errors import NormcError

T = TypeVar("T")
_LONGEST = 80  # characters of a value in an error


def shown(value: object) -> str:
    """Return `value` as an error shows it: on one line, short; the type of what has no short literal."""
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r}... ({len(value)} characters)"
    if isinstance(value, int) and abs(value) >= 2**64:  # Python refuses to print one of 4,300 digits
        return "a huge number"
    if value is None or isinstance(value, Real | complex):
        return repr(value)
    return f"a {type(value).__name__}" if not isinstance(value, type) else f"the type {value.__name__}"


def instance(name: str, value: object, kind: type[T], fix: str) -> T:
    """Return `value`, which has to be a `kind`. NormcError else."""
    if not isinstance(value, kind):
        raise NormcError(f"{name} is {shown(value)}, not a {kind.__name__}", fix)
    return value


def function(name: str, value: T, fix: str) -> T:
    """Return `value`, which has to be callable. NormcError else."""
    if not callable(value):
        raise NormcError(f"{name} is {shown(value)}, which can't be called", fix)
    return value


def flag(name: str, value: object) -> bool:
    """Return `value`, which has to be True or False: the text "false" would count as true. NormcError else."""
    if not isinstance(value, bool):
        raise NormcError(f"{name} is {shown(value)}", "give True or False")
    return value


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number, and no bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def number(name: str, value: Any, fix: str, fits: Callable[[float], bool] = lambda value: value >= 0) -> float:
    """Return `value` as a float. NormcError unless it is finite and `fits`: by default, at least 0."""
    if not is_number(value) or not fits(value):
        raise NormcError(f"{name} is {shown(value)}", fix)
    return float(value)


def whole(name: str, value: Any, least: int, fix: str) -> int:
    """Return `value`, which has to be a whole number of at least `least`. NormcError else."""
    try:
        count = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = least - 1
    if not least <= count < 2**62:
        raise NormcError(f"{name} is {shown(value)}", fix)
    return count


def items(name: str, value: Any, fix: str) -> tuple[Any, ...]:
    """Return the members of `value`, which has to be a list or another iterable, no text. NormcError else."""
    try:
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise TypeError
        return tuple(value)
    except TypeError:  # a tensor of one number says that it is iterable
        raise NormcError(f"{name} is {shown(value)}", fix) from None


def mapping(name: str, value: Any, fix: str) -> Mapping[Any, Any]:
    """Return `value`, which has to be a mapping. NormcError else."""
    if not isinstance(value, Mapping):
        raise NormcError(f"{name} is {shown(value)}, not a mapping", fix)
    return value


def by_text(name: str, value: Any, fix: str) -> dict[str, Any]:
    """Return a copy of the mapping `value`, whose keys are text; empty for None. NormcError else."""
    found = {} if value is None else dict(mapping(name, value, fix))
    for key in found:
        if not isinstance(key, str):
            raise NormcError(f"{name} has the key {shown(key)}", fix)
    return found
