"""Verdicts: what is fine, what is worth knowing, what is wrong, each with a reason a reader can act on."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "note", "wrong"]
STYLES: dict[Level, str] = {"ok": "green", "note": "yellow", "wrong": "bold red"}
_ORDER: tuple[Level, ...] = ("ok", "note", "wrong")


class Verdict(NamedTuple):
    """A word or two for the table; `why` is said once below it."""

    level: Level
    word: str
    why: str = ""

    @property
    def marked(self) -> str:
        """The word, with `!!` where something is wrong."""
        return f"!! {self.word}" if self.level == "wrong" else self.word


OK = Verdict("ok", "ok")


def worst(verdicts: list[Verdict]) -> Verdict:
    """The most serious one; the first of those."""
    return max(verdicts, key=lambda verdict: _ORDER.index(verdict.level), default=OK)
