"""One object of a plan's document, read strictly: keys known, values of their type, or an error that says where."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from normc.errors import NormcError

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
_LARGEST = 2**62


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one object; `place` names it in errors."""

    data: Mapping[str, object]
    place: str

    @staticmethod
    def of(data: object, place: str, keys: Iterable[str], optional: Iterable[str] = ()) -> Fields:
        """`data` as an object that has exactly these keys, and perhaps the `optional` ones."""
        keys = tuple(keys)
        if not isinstance(data, dict):
            raise NormcError(f"{place} should be an object and is {_kind(data)}", _FIX)
        fields = Fields(data, place)
        for key in keys:
            if key not in data:
                fields.fail(key, "is missing")
        for key in data:
            if key not in (*keys, *optional):
                fields.fail(key, f"is unknown; known: {', '.join(keys)}")
        return fields

    def fail(self, field: str, problem: str) -> NoReturn:
        """Raise the NormcError for a field."""
        raise NormcError(f"{self.place}: field {field[:80]!r} {problem}", _FIX)

    def text(self, field: str) -> str:
        """A string."""
        value = self.data[field]
        if not isinstance(value, str):
            self.fail(field, f"should be text and is {_kind(value)}")
        return value

    def word(self, field: str) -> str:
        """A string that can name a part: a small letter, then small letters, digits, - or _."""
        value = self.text(field)
        if not _WORD.fullmatch(value):
            self.fail(field, f"is no name of a part: {value[:80]!r}")
        return value

    def recipe(self, field: str) -> str:
        """A recipe's name, or several with their selectors: `muon, output=adamw, *.wte.*=lion`."""
        value = self.text(field)
        first, *rest = re.split(r"\s*,\s*", value)
        names = [first, *(part.rpartition("=")[2] for part in rest)]
        if not value.isprintable() or not all(_WORD.fullmatch(name) for name in names):
            self.fail(field, f"is no name of a recipe: {value[:80]!r}")
        return value

    def one_of(self, field: str, known: Iterable[str]) -> str:
        """A string of a known set."""
        value, known = self.text(field), tuple(known)
        if value not in known:
            self.fail(field, f"is {value[:80]!r}; known: {', '.join(known)}")
        return value

    def whole(self, field: str, below: int = _LARGEST) -> int:
        """An integer from 0 to below `below`."""
        return self.whole_value(field, self.data[field], below)

    def whole_value(self, field: str, value: object, below: int = _LARGEST) -> int:
        """The same, for a value inside the field."""
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(field, f"should hold a whole number and holds {_kind(value)}")
        if not 0 <= value < below:
            self.fail(field, f"holds {value if abs(value) < _LARGEST else 'a huge number'}, outside 0 to {below - 1}")
        return value

    def number(self, field: str) -> float:
        """A finite number, 0 or more, as a float."""
        return self.number_value(field, self.data[field])

    def number_value(self, field: str, value: object) -> float:
        """The same, for a value inside the field."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(field, f"should hold a number and holds {_kind(value)}")
        if not 0 <= value < 2.0**1000 or not math.isfinite(value):
            self.fail(field, "holds a number that is negative or too large")
        return float(value)

    def maybe_number(self, field: str) -> float | None:
        """A finite number or null."""
        return None if self.data[field] is None else self.number(field)

    def maybe_text(self, field: str) -> str | None:
        """A string or null."""
        return None if self.data[field] is None else self.text(field)

    def flag(self, field: str) -> bool:
        """true or false."""
        value = self.data[field]
        if not isinstance(value, bool):
            self.fail(field, f"should be true or false and is {_kind(value)}")
        return value

    def items(self, field: str) -> list[object]:
        """A list."""
        value = self.data[field]
        if not isinstance(value, list):
            self.fail(field, f"should be a list and is {_kind(value)}")
        return value

    def mapping(self, field: str) -> Mapping[str, object]:
        """An object with whatever keys."""
        value = self.data[field]
        if not isinstance(value, dict):
            self.fail(field, f"should be an object and is {_kind(value)}")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self.items(field)
        if not all(isinstance(value, str) for value in values):
            self.fail(field, "should hold text alone")
        return tuple(str(value) for value in values)

    def wholes(self, field: str, below: int = _LARGEST) -> tuple[int, ...]:
        """A list of integers from 0 to below `below`."""
        return tuple(self.whole_value(field, value, below) for value in self.items(field))


_FIX = "save it again with plan.to_json(); change a plan with override(), not by hand"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
