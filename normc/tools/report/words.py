"""How a row's facts are said in a few words. Names are untrusted: what can't be printed is escaped."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import sympy
from rich.cells import cell_len

from normc.plans.expression import Formula, show_formula, write_formula
from normc.plans.row import KERNEL, Block, Evidence, Row
from normc.tools.report.step import steps

# A formula's symbols in a table, where the shape beside it says what goes in and out.
SHORT = {"d_out": "out", "d_in": "in"}
_AXIS_WORDS = (("in_axes", "in"), ("out_axes", "out"), ("block_axes", "stack"), ("kernel_axes", "k"))


def shown(text: str) -> str:
    """`text` with whatever moves a cursor, changes a colour or can't be printed in Python's escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def number(value: float) -> str:
    """Four digits: 0.01302, 3, 1.2e-05."""
    return f"{value:.4g}"


def numbers(values: tuple[float, ...]) -> str:
    """One number where all are alike, each where they are few, else their range."""
    texts = list(dict.fromkeys(number(value) for value in values))
    if len(texts) == 1:
        return texts[0]
    if len(values) <= 3:
        return ", ".join(number(value) for value in values)
    return f"{number(min(values))} to {number(max(values))}"


def size(count: int) -> str:
    """Bytes as people say them: 497.8 MB (powers of 1000)."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def axis_words(row: Row) -> tuple[str, ...]:
    """What each axis is: in, out, index (an embedding's), stack, k (a window's), - for none of them."""
    looked_up = any(use.role == row.role and "index" in use.axes for use in row.uses)
    found = []
    for axis in range(len(row.shape)):
        word = next((word for field, word in _AXIS_WORDS if axis in getattr(row, field)), "-")
        found.append("index" if word == "in" and looked_up else word)
    return tuple(found)


def shape(row: Row) -> str:
    """`768→2304 (in, out)`, `3→64, 7×7 (out, in)`, `8 of 64→256 (in, out)`: the brackets give the order of the axes.

    Plain sizes where no axis is fan-in.
    """
    if not row.in_axes:
        return "×".join(map(str, row.shape)) or "one number"
    fan_in = math.prod(row.shape[axis] for axis in row.in_axes)
    window = ", " + "×".join(str(row.shape[axis]) for axis in row.kernel_axes) if row.kernel_axes else ""
    stack = f"{math.prod(row.shape[axis] for axis in row.block_axes)} of " if row.block_axes else ""
    order = ", ".join(word for word in axis_words(row) if word not in ("stack", "k", "-"))
    return f"{stack}{fan_in}→{row.fan_out}{window} ({order})"


def blocks(parts: tuple[Block, ...]) -> str:
    """`q k v, 3 × 768`; `q 4096, k 1024, v 1024`; `32 × 4`."""
    if not parts:
        return ""
    apart = ", interleaved" if any(len(part.spans) > 1 for part in parts) else ""
    labels = [shown(part.label) for part in parts]
    if len({part.size for part in parts}) > 1:
        listed = [f"{label} {part.size}" for label, part in zip(labels, parts, strict=True)]
        return (", ".join(listed) if len(listed) <= 4 else f"{len(listed)} of unlike sizes") + apart
    plain = any(label[-1:].isdigit() for label in labels) or len(labels) > 4
    return ("" if plain else " ".join(labels) + ", ") + f"{len(parts)} × {parts[0].size}" + apart


def role(row: Row) -> str:
    """The role, and that it is frozen."""
    return f"{row.role}, frozen" if row.frozen else row.role


def shapes(rows: Sequence[Row]) -> str:
    """The shape of all rows; where they differ the range of their entries: `64–512`."""
    texts = {shape(row) for row in rows}
    sizes = [row.numel for row in rows]
    return texts.pop() if len(texts) == 1 else f"{min(sizes)}–{max(sizes)}"


def share(decay: float) -> str:
    """What a row has of its group's weight decay."""
    return f"{number(decay)} times the group's" if decay else "none"


def because(row: Row) -> Evidence | None:
    """The evidence for a row's role."""
    return next((evidence for evidence in row.evidence if evidence.fact == "role"), None)


def why(row: Row) -> str:
    """The op and the source line behind the role; its reason where no op is."""
    found = because(row)
    if found is None:
        return ""
    op = shown(found.op).removeprefix("aten.")
    where = shown(found.source)
    return " ".join(filter(None, (op, where))) or shown(found.reason)


def whys(rows: Sequence[Row]) -> str:
    """The reason of all rows, or of those that differ the op that they share."""
    texts = {why(row) for row in rows}
    if len(texts) == 1:
        return texts.pop()
    ops = {shown(found.op).removeprefix("aten.") for row in rows if (found := because(row)) is not None}
    return ops.pop() if len(ops) == 1 else ""


def norm(row: Row) -> str:
    """The norm, and the rule if that isn't the norm's own step."""
    if row.rule == "none":
        return "no update"
    return row.norm if row.rule == "lmo" else f"{row.norm} ({shown(row.rule)})"


def formula(row: Row, names: dict[str, str] | None = None, digits: int = 6) -> str:
    """The scale's formula; without the window's size where there is none."""
    return show_formula(_written(row.scale.formula, bool(row.kernel_axes)), names, digits)


@functools.lru_cache(maxsize=4096)  # the same formula is said with names and with numbers, and sympy is slow
def _written(formula: sympy.Expr, window: bool) -> Formula:
    return write_formula(formula if window else formula.subs(KERNEL, 1))


def formulas(rows: Sequence[Row]) -> str:
    """The formula of rows that differ in its leading number alone, which becomes a range; in short symbols."""
    coefficients = [float(row.scale.formula.as_coeff_Mul()[0]) for row in rows]
    if number(min(coefficients)) == number(max(coefficients)):
        return formula(rows[0], SHORT, 4)
    rest = rows[0].scale.formula.as_coeff_Mul()[1]
    spread = _spread(coefficients)
    if rest == 1:
        return spread
    text = formula(replace(rows[0], scale=replace(rows[0].scale, formula=rest)), SHORT, 4)
    return f"({spread}){text[1:]}" if text.startswith("1/") else f"({spread})·{text}"


def said(field: str, value: object) -> str:
    """One side of a change between two plans: a decision's value, or whether there is such a row."""
    if field == "row":
        return "nothing" if value is None else "a row"
    if field == "scale" and isinstance(value, list):
        return f"{show_formula(value[0])} = {numbers(tuple(value[1]))}"
    return shown(str(value))


def steps_of(rows: Sequence[Row]) -> str:
    """The RMS of a step of lr 1."""
    found = [tuple(block.rms for block in steps(row) or ()) for row in rows]
    return ranged(found) if any(found) else ""


def ranged(values: Iterable[tuple[float, ...]]) -> str:
    """The numbers of one row, or the range of several rows' where they differ."""
    found = list(values)
    every = [value for own in found for value in own]
    if len({number(value) for value in every}) > 1 and len(found) > 1:
        return _spread(every)
    return numbers(found[0])


def _spread(values: list[float]) -> str:
    """`0.016–0.046`: three digits are enough for a range."""
    return f"{min(values):.3g}–{max(values):.3g}"


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns: what is too long has `…` in its middle."""
    if cell_len(text) <= width:
        return text
    left = right = ""
    for index in range(len(text)):  # a character may be two columns wide, or none
        more = (left + text[index // 2], right) if index % 2 else (left, text[-1 - index // 2] + right)
        if cell_len("".join(more)) > width - 1:
            break
        left, right = more
    return f"{left}…{right}" if width > 0 else ""
