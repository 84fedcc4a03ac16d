"""A plan as a table: one line a family of layers from 140 columns on, two where the terminal is narrower."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from normc.plans.plan import NormPlan, reports
from normc.tools.report import words
from normc.tools.report.families import Family, families
from normc.tools.report.folding import folded
from normc.tools.report.footer import footer

# Colours that can be read on light and on dark: no yellow, no bright ones.
_COLORS = {
    "input": "cyan", "hidden": "cyan", "output": "magenta", "embedding": "green", "position": "green", "token": "green",
    "router": "magenta", "depthwise": "cyan", "unused": "dim",
}  # fmt: skip
_ONE_LINE = 140  # from so many columns on
_WHY = 18  # columns that the reason gets at least, where a line is cut
_NAME = 24  # and the name


@dataclass(frozen=True, slots=True)
class Line:
    """The words for one family, to be laid out. `fallback` is a warning on a line of its own."""

    name: Text
    shape: str
    role: Text
    blocks: str
    norm: str
    scale: str
    number: str
    rms: str
    why: str
    fallback: str


def table(plan: NormPlan, width: int) -> RenderableType:
    """The whole plan in `width` columns: what was inferred, why, what each tensor will get, and a summary."""
    return Group(title(plan), lines_of(folded(families(plan.rows)), width), footer(plan))


reports.add("table", table, __name__)


def title(plan: NormPlan) -> Text:
    """What the plan is of."""
    return Text.assemble(("plan of ", "dim"), (words.shown(plan.model), "bold"), (f", recipe {plan.recipe}", "dim"))


def lines_of(found: Iterable[Family], width: int) -> Text:
    """The families' lines in `width` columns, under their heads."""
    lines = [_line(family) for family in found]
    whole = sum(_widths(_columns(lines, WHOLE)).values()) <= width
    return _wide(lines, width) if whole or width >= _ONE_LINE else _narrow(lines, width)


def _line(family: Family) -> Line:
    row = family.rows[0]
    name = Text(words.shown(family.name), style="bold")
    if len(family.rows) > 1:
        name.append(f" ×{len(family.rows)}", style="bold magenta")
    ties = "".join(f"= {words.shown(alias)}; " for alias in family.aliases)
    scale = words.formulas(family.rows) if row.rule != "none" else ""
    number = words.ranged(row.scale.per_block for row in family.rows) if row.rule != "none" else ""
    roles = list(dict.fromkeys(words.role(row) for row in family.rows))
    return Line(
        name=name, shape=words.shapes(family.rows), role=Text(", ".join(roles), _COLORS.get(row.role, "")),
        blocks=words.blocks(row.blocks), norm=words.norm(row),
        scale=scale or number, number="" if _says(scale, number) else number, rms=words.steps_of(family.rows),
        why=(ties + words.whys(family.rows)).removesuffix("; "),
        fallback="" if row.fallback is None else f"!! FALLBACK: {words.shown(row.fallback)}",
    )  # fmt: skip


def _says(scale: str, number: str) -> bool:
    """Whether the formula is the number itself, or a range for which a second one would say little."""
    return scale in ("", number) or scale.startswith("(")


Cell = Callable[[Line], Text]
Columns = dict[str, list[Text]]
CELLS: dict[str, Cell] = {
    "parameter": lambda line: line.name,
    "shape": lambda line: Text(line.shape),
    "role": lambda line: line.role,
    "blocks": lambda line: Text(line.blocks),
    "norm": lambda line: Text(line.norm),
    "scale": lambda line: Text(line.scale),
    "=": lambda line: Text(line.number),
    "rms/lr": lambda line: Text(line.rms),
    "why": lambda line: Text(line.why, "dim"),
}
WHOLE = tuple(CELLS)
# What a line does without where it doesn't fit, one after the other: the scale's number, the order of axes, the RMS.
_ORDER = "order"
_LESS = ((), ("=",), ("=", _ORDER), ("=", _ORDER, "rms/lr"))


def _columns(lines: Sequence[Line], heads: Sequence[str]) -> Columns:
    """The cells below each head; columns that would be empty are left out."""
    columns = {head: [CELLS[head](line) for line in lines] for head in heads}
    return {head: cells for head, cells in columns.items() if any(cell.plain for cell in cells)}


def _widths(columns: Columns) -> dict[str, int]:
    """Columns that each needs, with the space behind it."""
    return {head: max(len(head), *(cell_len(cell.plain) for cell in cells)) + 2 for head, cells in columns.items()}


def _without_order(line: Line) -> Line:
    return replace(line, shape=line.shape.partition(" (")[0])


def _wide(lines: list[Line], width: int) -> Text:
    """One line a family. What doesn't fit is left out by columns; then reasons are cut in their middle, then names."""
    columns: Columns = {}
    widths: dict[str, int] = {}
    for less in _LESS:
        given = [_without_order(line) for line in lines] if _ORDER in less else lines
        columns = _columns(given, [head for head in WHOLE if head not in less])
        widths = _widths(columns)
        least = sum(widths.values()) - max(widths.get("why", 0) - _WHY - 2, 0)
        if least <= width + 2:
            break
    for head, few in (("why", _WHY), ("parameter", _NAME), ("scale", _WHY), ("shape", _WHY)):
        excess = sum(widths.values()) - 2 - width
        if excess > 0 and head in widths:
            widths[head] = max(widths[head] - excess, min(few + 2, widths[head]))
    text = _laid_out([Text(head, "dim underline") for head in columns], widths)
    for line, *cells in zip(lines, *columns.values(), strict=True):
        text.append("\n").append_text(_laid_out(cells, widths))
        if line.fallback:
            text.append(f"\n  {line.fallback}", style="bold red")
    return text


def _laid_out(cells: Sequence[Text], widths: dict[str, int]) -> Text:
    """One line; numbers stand at the right of their columns."""
    text = Text()
    for cell, (head, width) in zip(cells, widths.items(), strict=True):
        shown = _cut(cell, width - 2)
        space = " " * (width - 2 - cell_len(shown.plain))
        right = head in ("=", "rms/lr")
        text.append(space if right else "").append_text(shown).append(("" if right else space) + "  ")
    text.rstrip()
    return text


def _cut(cell: Text, width: int) -> Text:
    """A cell in `width` columns; how many rows a family has stays."""
    if cell_len(cell.plain) <= width:
        return cell
    name, times, count = cell.plain.rpartition(" ×")
    if times and count.isdecimal():
        return Text(words.cut(name, width - cell_len(times + count)), cell.style).append(times + count)
    return Text(words.cut(cell.plain, width), cell.style)


def _narrow(lines: list[Line], width: int) -> Text:
    """Name and reason; then role, shape, norm, scale and blocks in columns of their own. What doesn't fit is left out
    by columns; a line that is still too long goes on below.
    """
    heads = ("role", "shape", "norm", "scale", "=", "rms/lr", "blocks")
    columns: Columns = {}
    widths: dict[str, int] = {}
    for less in _LESS:
        given = [_without_order(line) for line in lines] if _ORDER in less else lines
        columns = _columns(given, [head for head in heads if head not in less])
        widths = _widths(columns)
        if sum(widths.values()) <= width:
            break
    text = Text.assemble("parameter, why\n  ", _joined(map(Text, columns), widths, width), style="dim")
    place = max((cell_len(line.name.plain) for line in lines), default=0) + 2
    for line, *cells in zip(lines, *columns.values(), strict=True):
        text.append("\n").append_text(_first(line, place, width))
        text.append("\n  ").append_text(_joined(cells, widths, width))
        if line.fallback:
            text.append(f"\n    {line.fallback}", style="bold red")
    return text


def _first(line: Line, place: int, width: int) -> Text:
    """The name, and as much of the reason as there is room for."""
    text = line.name.copy()
    used = cell_len(line.name.plain) + 2
    at = place if place + cell_len(line.why) <= width else max(min(place, width - _WHY), used)
    if line.why and at + _WHY <= width:
        text.append(" " * (at - used + 2)).append(words.cut(line.why, width - at), style="dim")
    return text


def _joined(cells: Iterable[Text], widths: dict[str, int], width: int) -> Text:
    """Cells in columns; one that would pass the edge starts another line."""
    text, used = Text(), 2
    for cell, space in zip(cells, widths.values(), strict=True):
        if used > 2 and used + cell_len(cell.plain) > width:
            text.rstrip()
            text.append("\n    ")
            used = 4
        text.append_text(cell).append(" " * max(space - cell_len(cell.plain), 0))
        used += max(space, cell_len(cell.plain))
    text.rstrip()
    return text
