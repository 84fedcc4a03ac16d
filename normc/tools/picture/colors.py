"""Colours of norms, for light and dark paper. A norm's name is always written beside its colour."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import NamedTuple

from normc.plans.row import Row


class Color(NamedTuple):
    """An RGB colour on white, and on black."""

    light: str
    dark: str


NONE = "no update"
_KNOWN = {
    "spectral": Color("#2c68d6", "#6ea2ff"),
    "sign": Color("#c2410c", "#ff9457"),
    "colnorm": Color("#0b7d58", "#43c99b"),
    "rownorm": Color("#7538d4", "#b691ff"),
    "rms": Color("#8a6a00", "#e0b93c"),
    "frobenius": Color("#ad1f74", "#ff85c8"),
    "slices": Color("#0c6f8c", "#4cc3e0"),
    NONE: Color("#6b7078", "#8d939c"),
}
_OTHERS = (Color("#4d7c0f", "#a3d04f"), Color("#9f1239", "#ff8a9f"), Color("#4338ca", "#a5a0ff"))


def kind(row: Row) -> str:
    """The name of a row's colour: its norm's, or that it gets no update."""
    return NONE if row.rule == "none" else row.norm


def palette(rows: Iterable[Row]) -> dict[str, Color]:
    """The colours that these rows need, by name. A norm of the user's own gets one by its name."""
    return {name: _KNOWN.get(name) or _other(name) for name in sorted({kind(row) for row in rows})}


def _other(name: str) -> Color:
    return _OTHERS[zlib.crc32(name.encode()) % len(_OTHERS)]
