"""Where everything of a static picture stands: cards as wide as their words, boxes as wide as their rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size

from normc.tools.picture.glyphs import Glyph, glyph
from normc.tools.picture.parts import Part, Place
from normc.tools.report import words

TEXT, NAME, LINE = 10.5, 11.5, 13.5
HEAD, PORT, LANE, JOIN, APART = 28.0, 18.0, 10.0, 18.0, 20.0
_ROW, _BESIDE, _TOP, _BOTTOM = 26.0, 14.0, 18.0, 16.0
_ABREAST = 4  # parameters in a row of a card
_MOST = 34  # cells of a text; more end in an ellipsis


@dataclass(slots=True)
class Label:
    """One parameter on a card: its picture and the words beside it, the first one bold where it is a name."""

    place: Place
    glyph: Glyph
    lines: tuple[str, ...]
    named: bool

    @property
    def width(self) -> float:
        """Of picture and words."""
        return self.glyph.width + 3 * (self.glyph.sheets - 1) + 8 + max(wide(line, TEXT) for line in self.lines) + 6

    @property
    def height(self) -> float:
        """Of the higher of the two."""
        return max(self.glyph.height + 3 * (self.glyph.sheets - 1), LINE * len(self.lines)) + 6


@dataclass(slots=True)
class Placed:
    """A part with its corner and size. Of a box, `shown` is what is drawn of it, `inside` its parts by their places.

    `low` is where the row that it stands in ends; `last` whether nothing stands right of it there. Lines leave a box at
    `floor`, above what no line leads to.
    """

    part: Part
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    low: float = 0.0
    last: bool = True
    floor: float = 0.0
    labels: list[Label] = field(default_factory=list)
    inside: dict[int, Placed] = field(default_factory=dict)

    def lines(self) -> Iterator[list[Label]]:
        """The rows of a card's parameters."""
        for start in range(0, len(self.labels), _ABREAST):
            yield self.labels[start : start + _ABREAST]

    @property
    def shown(self) -> Part:
        """The part itself, or the first of layers that are alike."""
        return self.part.parts[0] if self.part.alike else self.part

    def streams(self, end: int) -> bool:
        """Whether a residual stream goes in or out here."""
        return self.part.streams(end) or self.shown.streams(end)

    def port(self, end: int) -> float:
        """Where lines come in or go out."""
        return self.x + (PORT if self.part.kind == "box" and self.streams(end) else self.width / 2)


def wide(text: str, size: float) -> float:
    """About how wide a text is, in a font of that size."""
    return cell_len(text) * size * 0.55


def cut(text: str) -> str:
    """The text, or its beginning."""
    return text if cell_len(text) <= _MOST else set_cell_size(text, _MOST - 1) + "…"


def heading(part: Part) -> tuple[str, str]:
    """A box's name, and what stands behind it."""
    rows = {place.row.name: place.row for inner in part.walk() for place in inner.places}
    times = f"×{len(part.parts)}   " if part.alike else ""
    return cut(
        words.shown(part.label)
    ), f"{times}{len(rows)} tensors, {_short(sum(row.numel for row in rows.values()))}"


def _short(number: float) -> str:
    for unit in ("", " K", " M", " B"):
        if number < 999.5:
            return f"{number:.1f}{unit}" if unit and number < 100 else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.1f} T"


def placed(whole: Part) -> Placed:
    """The whole picture, its corner at 0, 0."""
    found = _sized(whole)
    _settle(found, found.width, 0.0, 0.0)
    return found


def _sized(part: Part) -> Placed:
    if part.kind == "join":
        return Placed(part, JOIN, JOIN)
    if part.kind == "card":
        return _card(part)
    found = Placed(part, 0.0, 0.0)
    shown = found.shown
    inside = shown.parts if shown.kind == "box" else [shown]
    found.inside = {place: _sized(inner) for place, inner in enumerate(inside)}
    rows = [*shown.ranks, *_apart(found)] if shown.kind == "box" else [(0,)]
    widths = [sum(found.inside[i].width for i in row) + _BESIDE * (len(row) - 1) for row in rows if row]
    space = _space(shown)
    found.width = max([*widths, sum(wide(text, NAME) for text in heading(part)) + 60 - 2 * space]) + 2 * space
    found.height = HEAD + _TOP + sum(_tall(found, row) + _ROW for row in rows) - _ROW + _BOTTOM
    found.height += APART * len(_apart(found))
    return found


def _card(part: Part) -> Placed:
    labels = [_label(place, part) for place in part.places]
    found = Placed(part, 0.0, 0.0, labels=labels)
    rows = list(found.lines())
    width = max(sum(label.width + 6 for label in row) for row in rows)
    found.width = max(width, wide(cut(words.shown(part.label)), NAME)) + 12
    found.height = (18.0 if part.label else 4.0) + sum(max(label.height for label in row) for row in rows) + 6
    return found


def _label(place: Place, part: Part) -> Label:
    row = place.row
    named = len(part.places) > 1 or not part.label or place.short != "weight"
    marks = [mark for mark, there in (("FALLBACK", row.fallback), ("frozen", row.frozen)) if there]
    tied = [f"= {words.shown(row.name)}"] if place.tied else ["tied"] if row.aliases else []
    lines = [words.shape(row).partition(" (")[0], row.role, words.norm(row), words.blocks(row.blocks), *marks, *tied]
    said = [words.shown(place.short)] if named else []
    return Label(place, glyph(row), tuple(cut(line) for line in (*said, *lines) if line), named)


def _apart(box: Placed) -> list[tuple[int, ...]]:
    """The row of what no line leads to, where lines lead to others."""
    return [box.shown.apart] if box.shown.apart and box.shown.lines else []


def _space(shown: Part) -> float:
    """Left and right of what stands in a box: for the stream, and for lanes."""
    return max(12.0, 50.0 * shown.spine, (16 + shown.lanes * LANE) * bool(shown.lanes))


def _tall(box: Placed, row: tuple[int, ...]) -> float:
    return max(box.inside[place].height for place in row)


def _settle(found: Placed, width: float, x: float, y: float) -> None:
    """Give a part its corner; a box that stands alone in its row is as wide as it can be, less a stack's edges."""
    found.width, found.x, found.y = width, x, y
    if found.part.kind != "box":
        return
    bottom = y + found.height
    y += HEAD + _TOP
    for row in found.shown.ranks if found.shown.kind == "box" else ((0,),):
        _stand(found, row, y)
        y += _tall(found, row) + _ROW
    found.floor = y - _ROW + _BOTTOM
    for row in _apart(found):
        _stand(found, row, bottom - _BOTTOM - _tall(found, row))


def _stand(found: Placed, row: tuple[int, ...], y: float) -> None:
    """Put the parts of a row side by side, in the middle."""
    space = _space(found.shown)
    standing = [found.inside[place] for place in row]
    stretched = len(row) == 1 and standing[0].part.kind == "box"
    widths = [found.width - 2 * space if stretched else inner.width for inner in standing]
    at = found.x + (found.width - sum(widths) - _BESIDE * (len(row) - 1)) / 2
    tall = _tall(found, row)
    for inner, own in zip(standing, widths, strict=True):
        join = inner.part.kind == "join"
        _settle(inner, own, found.x + PORT - JOIN / 2 if join else at, y)
        inner.low, inner.last = y + tall, inner is standing[-1]
        at += own + _BESIDE
