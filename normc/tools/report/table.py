"""A plan as a table: one line a family of layers where the terminal is wide, two or three where it is narrow."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normc.plans.plan import NormPlan, reports
from normc.plans.row import Row
from normc.tools.report import words
from normc.tools.report.families import Family, families
from normc.tools.report.footer import footer

_COLORS = {
    "input": "cyan", "hidden": "cyan", "output": "magenta", "embedding": "green", "position": "green", "token": "green",
    "router": "yellow", "depthwise": "cyan", "unused": "bright_black",
}  # fmt: skip
_WHY = 22  # columns that the reason gets at least, in a wide table
_SCALE = 34  # and the scale with its RMS, in a narrow one


@dataclass(frozen=True, slots=True)
class Line:
    """The words for one family, to be laid out; `marks` are (style, text) that follow it on lines of their own."""

    name: Text
    shape: str
    role: Text
    why: str
    blocks: str
    norm: str
    formula: str
    number: str
    step: str
    marks: tuple[tuple[str, str], ...]


def table(plan: NormPlan, width: int) -> RenderableType:
    """The whole plan in `width` columns: what was inferred, why, what each tensor will get, and a summary."""
    lines = [_line(family) for family in families(plan.rows)]
    title = Text.assemble(("plan of ", "dim"), (words.shown(plan.model), "bold"), (f", recipe {plan.recipe}", "dim"))
    body = _wide(lines) if _wide_width(lines) <= width else _narrow(lines, width)
    return Group(title, body, footer(plan))


reports.add("table", table, __name__)


def _line(family: Family) -> Line:
    row = family.rows[0]
    name = Text(words.shown(family.name), style="bold")
    if len(family.rows) > 1:
        name.append(f" ×{len(family.rows)}", style="bold yellow")
    return Line(
        name=name, shape=words.shape(row), role=Text(words.role(row), _COLORS.get(row.role, "")), why=words.why(row),
        blocks=words.blocks(row.blocks), norm=words.norm(row),
        formula=words.formulas(family.rows) if row.rule != "none" else "",
        number=words.ranged(row.scale.per_block for row in family.rows) if row.rule != "none" else "",
        step=words.steps_of(family.rows),
        marks=_marks(family, row),
    )  # fmt: skip


def _marks(family: Family, row: Row) -> tuple[tuple[str, str], ...]:
    marks = [("green", f"= {words.shown(alias)}") for alias in family.aliases]
    if row.fallback is not None:
        marks.append(("bold red", f"!! FALLBACK: {words.shown(row.fallback)}"))
    return tuple(marks)


_HEADS = ("parameter", "shape", "role", "why", "blocks", "norm", "scale", "=", "rms/lr")


def _cells(line: Line) -> tuple[Text, ...]:
    """A family's cells, in the order of the heads."""
    texts = (line.shape, line.role, line.why, line.blocks, line.norm, line.formula, line.number, line.step)
    name = line.name.copy()
    for style, mark in line.marks:
        name.append(f"\n  {mark}", style=style)
    return (name, *(text if isinstance(text, Text) else Text(text) for text in texts))


def _wide(lines: list[Line]) -> Table:
    """One line a family; columns that would be empty are left out."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim underline")
    columns = [
        column for column in zip(_HEADS, *map(_cells, lines), strict=True) if any(cell.plain for cell in column[1:])
    ]
    for head, *_ in columns:
        right = head in ("=", "rms/lr")
        why = head == "why"
        grid.add_column(head, justify="right" if right else "left", no_wrap=not why, min_width=_WHY if why else None)
    for row in list(zip(*columns, strict=True))[1:]:
        grid.add_row(*row)
    return grid


def _wide_width(lines: list[Line]) -> int:
    """Columns that the wide table needs; the reason may be folded."""
    needed = 0
    for head, *cells in zip(_HEADS, *map(_cells, lines), strict=True):
        widest = max((cell_len(part) for cell in cells for part in cell.plain.split("\n")), default=0)
        if widest:
            needed += max(len(head), min(widest, _WHY) if head == "why" else widest) + 2
    return needed - 2


def _narrow(lines: list[Line], width: int) -> Text:
    """Name, reason and blocks; then role, shape, norm and scale in columns of their own; then the marks."""
    columns = _columns(lines, width)
    names = max((cell_len(line.name.plain) for line in lines), default=0) + 2
    reasons = max((cell_len(line.why) for line in lines), default=0)
    place = names if names + reasons <= width else 0
    heads = [Text(head) for head in ("role", "shape", "norm", "scale of a step at lr 1, its RMS")]
    text = Text.assemble(
        "parameter", " " * (place - 9) if place else ", ", "why, blocks\n", _row(heads, columns), style="dim"
    )
    for line in lines:
        text.append("\n").append_text(_first(line, place, width))
        text.append("\n").append_text(_second(line, columns, width))
        for style, mark in line.marks:
            text.append(f"\n    {mark}", style=style)
    return text


def _columns(lines: list[Line], width: int) -> tuple[int, int, int]:
    """Widths of role, shape and norm. A long shape pushes its own line's rest along, not everyone's off the edge."""
    role = max((cell_len(line.role.plain) for line in lines), default=0)
    norm = max((cell_len(line.norm) for line in lines), default=0)
    shape = max((cell_len(line.shape) for line in lines), default=0)
    return role, min(shape, max(width - role - norm - 8 - _SCALE, 10)), norm


def _row(cells: list[Text], columns: tuple[int, ...]) -> Text:
    """Cells in columns, the last one as long as it is."""
    text = Text("  ")
    for cell, space in zip(cells, columns, strict=False):
        text.append_text(cell).append(" " * (max(space - cell_len(cell.plain), 0) + 2))
    return text.append_text(cells[-1]) if len(cells) > len(columns) else text


def _first(line: Line, place: int, width: int) -> Text:
    """The name; the reason in its column, or at the right edge, or below; the blocks behind it, or below."""
    text = line.name.copy()
    used = cell_len(line.name.plain)
    if line.why:
        at = place or width - cell_len(line.why)
        fits = used + 2 <= at and at + cell_len(line.why) <= width
        text.append(" " * (at - used) if fits else "\n    ").append(line.why, style="dim")
        used = (at if fits else 4) + cell_len(line.why)
    if line.blocks:
        text.append("; " if line.why and used + cell_len(line.blocks) + 2 <= width else "\n    ").append(line.blocks)
    return text


def _second(line: Line, columns: tuple[int, int, int], width: int) -> Text:
    """Role, shape and norm in columns, and the scale; on two lines if it doesn't fit."""
    same = line.formula in ("", line.number) or line.formula.startswith("(")
    shown = line.formula or line.number
    scale = Text(shown if same else f"{line.formula} = {line.number}", style="bold")
    if line.step:
        scale = Text.assemble(scale, (f"  rms {line.step}", "dim"))
    text = _row([line.role, Text(line.shape), Text(line.norm)], columns)
    if cell_len(text.plain) + cell_len(scale.plain) > width:
        text.rstrip()
        text.append("\n    ")
    return text.append_text(scale)
