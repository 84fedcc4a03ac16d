"""The way of each line of a static picture, as page.js draws it: right angles, through the gaps between rows."""

from __future__ import annotations

import math
from typing import NamedTuple

from normc.tools.picture.parts import ENTRY, EXIT, Line
from normc.tools.picture.placing import HEAD, LANE, PORT, Placed


class Way(NamedTuple):
    """An SVG path, and that of its arrow's head, if it has one."""

    path: str
    tip: str


class _End(NamedTuple):
    x: float
    y: float
    at: Placed | None  # None at the edge of the box

    @property
    def join(self) -> bool:
        return self.at is not None and self.at.part.kind == "join"

    @property
    def middle(self) -> float:
        return self.y if self.at is None else self.at.y + self.at.height / 2

    @property
    def low(self) -> float:
        return self.y if self.at is None else self.at.low


def way(box: Placed, line: Line) -> Way:
    """The way of a line between two parts of a box."""
    source, target = _end(box, line.source, EXIT), _end(box, line.target, ENTRY)
    if line.side == "lane":
        return _by_lane(source, target, box.x + box.width - 8 - (box.shown.lanes - 1 - line.lane) * LANE, line.back)
    if line.side == "spine":
        return _by_spine(source, target, box.x + PORT)
    if target.join and not source.join and abs(source.x - target.x) > 24:
        assert target.at is not None
        edge, y = target.at.x + target.at.width, target.middle
        return Way(f"M{source.x:.1f} {source.y:.1f}V{y - 8:.1f}q0 8 -8 8H{edge + 6:.1f}", _left(edge, y))
    return _straight(source, target, line.stream)


def _end(box: Placed, place: int, side: int) -> _End:
    if place in (ENTRY, EXIT):
        x = box.x + (PORT if box.streams(place) else box.width / 2)
        return _End(x, box.y + HEAD if place == ENTRY else box.floor, None)
    inner = box.inside[place]
    return _End(inner.port(side), inner.y + inner.height if side == EXIT else inner.y, inner)


def _straight(a: _End, b: _End, stream: bool) -> Way:
    headless = b.at is None or b.join or (stream and b.at.port(ENTRY) - b.at.x < b.at.width / 2 - 1)
    tip, stop = ("", b.y) if headless else (_down(b.x, b.y), b.y - 6)
    aside = b.x - a.x
    if abs(aside) < 10:
        return Way(f"M{b.x:.1f} {a.y:.1f}V{stop:.1f}", tip)
    y = b.y - (8 if b.at is None else 13)
    turn = max(0.0, min(7.0, y - a.y, stop - y, abs(aside) / 2))
    to = math.copysign(turn, aside)
    return Way(
        f"M{a.x:.1f} {a.y:.1f}V{y - turn:.1f}q0 {turn:.1f} {to:.1f} {turn:.1f}H{b.x - to:.1f}"
        f"q{to:.1f} 0 {to:.1f} {turn:.1f}V{stop:.1f}",
        tip,
    )


def _by_spine(a: _End, b: _End, spine: float) -> Way:
    at = a.x if a.join else spine
    begin = f"M{at:.1f} {a.y:.1f}"
    if abs(a.x - at) >= 2:
        begin = f"M{a.x:.1f} {a.y:.1f}V{a.low + 5:.1f}q0 6 -7 6H{at + 7:.1f}q-7 0 -7 7"
    if b.join or abs(b.x - at) < 2:
        return Way(f"{begin}V{b.y:.1f}", "")
    stop = b.y - 13
    return Way(f"{begin}V{stop - 6:.1f}q0 6 6 6H{b.x - 7:.1f}q7 0 7 7V{b.y - 6:.1f}", _down(b.x, b.y))


def _by_lane(a: _End, b: _End, lane: float, back: bool) -> Way:
    """From the side of the last part in a row, from below the others; and in by the same two ways."""
    below, above = a.at is not None and not a.at.last, b.at is not None and not b.join and not b.at.last
    first = a.y + 5 if a.at is None else a.low + 7 if below else a.middle + (-6 if back else 6)
    if b.at is None:
        last, stop, tip = b.y - 5, f"H{b.x:.1f}", ""
    elif above:
        last, stop, tip = b.y - 11, f"H{b.x + 5:.1f}q-5 0 -5 5", _down(b.x, b.y)
    else:
        edge, last = b.at.x + b.at.width, b.middle if b.join else b.y + min(16.0, b.at.height / 3)
        stop, tip = f"H{edge + 6:.1f}", _left(edge, last)
    turn = math.copysign(min(8.0, abs(last - first) / 2), last - first)
    if a.at is None:
        begin = f"M{a.x:.1f} {first:.1f}"
    elif below:
        begin = f"M{a.x:.1f} {a.y:.1f}V{first - 6:.1f}q0 6 6 6"
    else:
        begin = f"M{a.at.x + a.at.width:.1f} {first:.1f}"
    return Way(f"{begin}H{lane - 8:.1f}q8 0 8 {turn:.1f}V{last - turn:.1f}q0 {turn:.1f} -8 {turn:.1f}{stop}", tip)


def _down(x: float, y: float) -> str:
    return f"M{x:.1f} {y:.1f}l-4.5 -7h9z"


def _left(x: float, y: float) -> str:
    return f"M{x:.1f} {y:.1f}l7 -4.5v9z"
