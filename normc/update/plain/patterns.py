"""Names that repeat and numbers that vary with them, as a table that a person reads.

`h.0.w` to `h.11.w` become the pattern `h.*.w` over range(12). Their numbers become the first one times a profile, which
patterns whose numbers grow alike share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from normc.update.plain.wrapping import fill

STAR = "*"


class Pattern(NamedTuple):
    """Names in the order of `product(*over)`; each value of `over` stands for a star of `text`, in order.

    Without `over` the text is a name as it is, stars and all.
    """

    text: str
    over: tuple[Sequence[int], ...]
    names: tuple[str, ...]


def patterns(names: Sequence[str]) -> list[Pattern]:
    """Return patterns that hold every name once, in the order of their first names."""
    found: dict[object, list[tuple[str, tuple[int, ...]]]] = {}
    order = {name: place for place, name in enumerate(names)}
    for name in names:
        parts = [name] if STAR in name else name.split(".")
        places = tuple(place for place, part in enumerate(parts) if _is_index(part))
        literal = tuple(part for place, part in enumerate(parts) if place not in places)
        found.setdefault((len(parts), places, literal), []).append((name, tuple(int(parts[i]) for i in places)))
    every = [pattern for alike in found.values() for pattern in _filled(alike)]
    return sorted(every, key=lambda pattern: min(map(order.__getitem__, pattern.names)))


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 9 and str(int(part)) == part


def _filled(alike: list[tuple[str, tuple[int, ...]]]) -> list[Pattern]:
    """Patterns of names that differ in indices alone: one if these are a product, else one for each last index."""
    seen = [sorted(set(column)) for column in zip(*(indices for _, indices in alike), strict=True)]
    if math.prod(map(len, seen)) == len(alike):
        return [_pattern(alike, seen)]
    last = max(place for place, values in enumerate(seen) if len(values) > 1)
    return [
        pattern
        for value in seen[last]
        for pattern in _filled([(name, indices) for name, indices in alike if indices[last] == value])
    ]


def _pattern(alike: list[tuple[str, tuple[int, ...]]], seen: list[list[int]]) -> Pattern:
    """One pattern; an index that is the same for all stays a number."""
    first = alike[0][0]
    if len(alike) == 1:
        return Pattern(first, (), (first,))
    parts, place = first.split("."), 0
    for at, part in enumerate(parts):
        if _is_index(part):
            parts[at] = STAR if len(seen[place]) > 1 else part
            place += 1
    names = {indices: name for name, indices in alike}
    over = tuple(tuple(values) for values in seen if len(values) > 1)
    return Pattern(".".join(parts), over, tuple(names[indices] for indices in product(*seen)))


def over_text(over: tuple[Sequence[int], ...]) -> str:
    """The values of stars, as source."""
    texts = [_span(values) for values in over]
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def _span(values: Sequence[int]) -> str:
    """A range where the values are evenly spaced."""
    step = values[1] - values[0]
    if list(range(values[0], values[-1] + 1, step)) != list(values):
        return str(tuple(values))
    bounds = [values[0], values[-1] + 1, step] if step > 1 else [values[0], values[-1] + 1]
    return f"range({', '.join(map(str, bounds if bounds[0] or step > 1 else bounds[1:]))})"


class Profiles:
    """Sequences of numbers by their shape: each is a number times one that starts at 1."""

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self.known: list[tuple[float, ...]] = []

    def text(self, values: Sequence[float]) -> str:
        """A number, or `0.02 * DEPTH`, where `DEPTH` is a tensor of the file."""
        first = self.number(values[0])
        if len({self.number(value) for value in values}) == 1:
            return first
        start = values[0] or 1.0
        profile = tuple(value / start for value in values)
        for index, other in enumerate(self.known):  # noqa: B007  # of where the loop ends
            if len(other) == len(profile) and all(map(self._near, other, profile)):
                break
        else:
            index = len(self.known)
            self.known.append(profile)
        return self.name(index) if start == 1.0 else f"{self.number(start)} * {self.name(index)}"

    def number(self, value: float) -> str:
        """A number to the digits that count."""
        return repr(float(f"{value:.{self.digits}g}"))

    def _near(self, one: float, other: float) -> bool:
        return math.isclose(one, other, rel_tol=0.1**self.digits, abs_tol=0.0)

    def lines(self) -> list[str]:
        """The tensors, as statements."""
        found: list[str] = []
        for index, values in enumerate(self.known):
            head = f"{self.name(index)} = torch.tensor(["
            found += [head, *fill("    ", [*map(self.number, values)], ",", 4), "], dtype=torch.float64)"]
        return found

    @staticmethod
    def name(index: int) -> str:
        """What a profile is called."""
        return f"DEPTH_{index + 1}" if index else "DEPTH"
