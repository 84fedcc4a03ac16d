"""What a picture is made of: boxes, cards of parameters, joins. A box knows where its parts stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from normc.plans.row import Row

Kind = Literal["box", "card", "join"]
ENTRY, EXIT = -1, -2  # where a line of a box enters and leaves it


@dataclass(frozen=True, slots=True)
class Place:
    """A parameter where one of its names puts it. `short` is the name's last part; `tied` to a first name elsewhere."""

    row: Row
    name: str
    short: str
    tied: bool


@dataclass(frozen=True, slots=True)
class Line:
    """Values that go from one part of a box to another, by their places in it.

    `entries` are those of the largest value. `side` says where a line passes other parts: "spine" left of them, "lane"
    right of them on lane number `lane`; "" passes none. `back` goes up, to what was computed before.
    """

    source: int
    target: int
    entries: int
    stream: bool
    side: Literal["", "spine", "lane"] = ""
    lane: int = 0
    back: bool = False


@dataclass(slots=True, eq=False)
class Part:
    """A box of parts, a card of parameters, or a join. `number` counts all parts, in the order of the page.

    `alike`: the parts are layers that differ in sizes alone. `ranks` are rows of parts, from top to bottom; `apart` are
    the parts that no value comes to or from.
    """

    kind: Kind
    label: str
    path: str
    places: tuple[Place, ...] = ()
    parts: list[Part] = field(default_factory=list)
    alike: bool = False
    lines: tuple[Line, ...] = ()
    ranks: tuple[tuple[int, ...], ...] = ()
    apart: tuple[int, ...] = ()
    lanes: int = 0
    number: int = 0

    def walk(self) -> Iterator[Part]:
        """This part and all within it."""
        yield self
        for part in self.parts:
            yield from part.walk()

    @property
    def spine(self) -> bool:
        """Whether a residual stream passes parts of this box by, or a branch joins it here."""
        return any(line.side == "spine" for line in self.lines) or any(part.kind == "join" for part in self.parts)

    def streams(self, end: int) -> bool:
        """Whether a residual stream enters (ENTRY) or leaves (EXIT) here."""
        return any(line.stream for line in self.lines if end in (line.source, line.target))
