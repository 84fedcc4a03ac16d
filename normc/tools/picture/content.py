"""What a page says: the plan's parts, rows and reasons as plain lists, for the script that draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.tools.picture.colors import kind, palette
from normc.tools.picture.glyphs import glyph
from normc.tools.picture.lines import drawn
from normc.tools.picture.parts import Part
from normc.tools.report import words
from normc.tools.report.explain import known

_THIN, _THICK = 1.4, 6.0


class _Texts:
    """Texts by number, each once: reasons of repeated layers are alike."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def content(plan: NormPlan) -> dict[str, Any]:
    """All of it, for JSON. What can't be printed is escaped in every text."""
    texts = _Texts()
    numbers = {row.name: number for number, row in enumerate(plan.rows)}
    whole = drawn(plan)
    parts = [*whole.walk()]
    width = widths(parts)
    found = plan.coverage
    return {
        "model": words.shown(plan.model),
        "recipe": words.shown(plan.recipe),
        "options": [f"{words.shown(name)} {words.shown(str(value))}" for name, value in plan.options],
        "hash": plan.hash[:16],
        "state": words.size(plan.state_bytes),
        "inferred": [*found],
        "notes": [words.shown(note) for note in plan.notes],
        "wired": plan.wiring is not None,
        "norms": [[name, *color] for name, color in palette(plan.rows).items()],
        "rows": [_row(plan, row, texts) for row in plan.rows],
        "parts": [_part(part, numbers, width) for part in parts],
        "texts": [*texts.numbers],
    }


def widths(parts: Iterable[Part]) -> dict[int, float]:
    """How wide lines of so many entries are drawn (px): on a logarithmic scale, the largest one 6."""
    sizes = {line.entries for part in parts for line in part.lines}
    logs = {size: math.log2(max(size, 1)) for size in sizes}
    low, high = min(logs.values(), default=0.0), max(logs.values(), default=0.0)
    span = max(high - low, 4.0)
    return {size: round(_THICK - (_THICK - _THIN) * (high - log) / span, 1) for size, log in logs.items()}


def _row(plan: NormPlan, row: Row, texts: _Texts) -> dict[str, Any]:
    formula, number = words.formula(row), words.numbers(row.scale.per_block)
    scale = "" if row.rule == "none" else formula if formula == number else f"{formula} = {number}"
    picture = glyph(row)
    marks = [("fallback", row.fallback is not None), ("unused", row.role == "unused"), ("frozen", row.frozen),
             ("tied", bool(row.aliases))]  # fmt: skip
    return {
        "name": words.shown(row.name), "aliases": [words.shown(alias) for alias in row.aliases],
        "shape": texts(words.shape(row)), "count": row.numel, "role": row.role, "norm": texts(words.norm(row)),
        "kind": kind(row), "scale": texts(scale), "blocks": texts(words.blocks(row.blocks)),
        "why": texts(_why(row)), "marks": [mark for mark, there in marks if there],
        "glyph": [*picture[:5], [[*stripe] for stripe in picture.stripes]],
        "facts": [number for fact, text in known(plan, row) for number in (texts(fact), texts(text.plain))],
    }  # fmt: skip


def _why(row: Row) -> str:
    if row.fallback is not None:
        return f"fallback: {words.shown(row.fallback)}"
    found = words.because(row)
    if found is None:
        return ""
    place = ", ".join(words.shown(part) for part in (found.op, found.source) if part)
    return f"{words.shown(found.reason)} ({place})" if place else words.shown(found.reason)


def _part(part: Part, numbers: dict[str, int], width: dict[int, float]) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": part.kind, "label": words.shown(part.label), "path": words.shown(part.path)}
    if part.kind == "card":
        return facts | {
            "places": [[numbers[place.row.name], words.shown(place.short), int(place.tied)] for place in part.places]
        }
    if part.kind == "join":
        return facts
    return facts | {
        "parts": [inner.number for inner in part.parts], "alike": part.alike, "ranks": part.ranks, "apart": part.apart,
        "lanes": part.lanes, "spine": part.spine,
        "lines": [[line.source, line.target, line.entries, width[line.entries], int(line.stream), line.side, line.lane,
                   int(line.back)] for line in part.lines],
    }  # fmt: skip
