"""What two plans disagree about, row family by row family, and what each difference does to a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from normc.plans.geometry import norms
from normc.plans.notes import listed
from normc.plans.plan import Change, NormPlan
from normc.plans.row import Row
from normc.tools.report import words
from normc.tools.report.families import pattern_of
from normc.tools.report.step import steps

_SIZES = ("scale", "target", "mass")  # numbers that differ from layer to layer

# What a unit step has in common, by what its norm sees at once.
_BOUNDED = {
    "matrix": "every singular value of a step is alike",
    "slices": "every singular value of a step is alike, place by place of the window",
    "columns": "every column of a step has one length",
    "rows": "every row of a step has one length",
    "entries": "every entry of a step has one size",
    "whole": "a step has one length as a whole",
}


def changes(first: NormPlan, second: NormPlan) -> RenderableType:
    """The recipe and its options, then the rows that differ: each field on both sides, and what it does to a step."""
    lines = [Text(f"{head}: {here} -> {there}") for head, here, there in _whole(first, second) if here != there]
    groups: dict[object, list[Change]] = {}
    found = first.diff(second)
    for change in found:
        groups.setdefault(_kind(change, first, second), []).append(change)
    for group in groups.values():
        lines += _lines(group, first, second)
    return Group(*lines, _verdict(first, second, len(found)))


def _kind(change: Change, first: NormPlan, second: NormPlan) -> object:
    """What the rows that are said together agree in: all but sizes."""
    said = tuple(
        (field, None if field in _SIZES else _said(field, before, after)) for field, before, after in change.fields
    )
    forms = [row.scale.formula.as_coeff_Mul()[1] for plan in (first, second) if (row := plan.by_name.get(change.name))]
    return said, tuple(map(str, forms))


def _whole(first: NormPlan, second: NormPlan) -> list[tuple[str, str, str]]:
    options = [words.shown(str(dict(plan.options))) for plan in (first, second)]
    return [("recipe", first.recipe, second.recipe), ("options", options[0], options[1])]


def _verdict(first: NormPlan, second: NormPlan, count: int) -> Text:
    rows = max(len(first), len(second))
    if first.hash == second.hash:
        same = f"the same decisions, hash {first.hash[:16]}"
        return Text(f"{same}; {count} of {rows} rows differ in what no step depends on" if count else same, "bold")
    hashes = f"hash {first.hash[:16]} -> {second.hash[:16]}"
    loading = "load_state_dict(strict=False) takes the rows of a checkpoint that agree, and lists the others"
    return Text(f"{count} of {rows} rows differ, {hashes}\n{loading}", "bold")


def _lines(group: Sequence[Change], first: NormPlan, second: NormPlan) -> list[Text]:
    """A head with the names, then a line a field."""
    names: dict[str, list[str]] = {}
    for one in group:
        names.setdefault(pattern_of(one.name), []).append(one.name)
    heads = [words.shown(pattern if len(own) > 1 else own[0]) for pattern, own in names.items()]
    lines = [Text(listed(heads), "bold").append(f" ×{len(group)}" if len(group) > 1 else "", "magenta")]
    here, there = ([row for one in group if (row := plan.by_name.get(one.name))] for plan in (first, second))
    fields = {field: (before, after) for field, before, after in group[0].fields}
    if "scale" in fields:
        fields.pop("target", None)  # the scale is the target times what the norm makes of the shape
    for field, (before, after) in fields.items():
        both = _sized(field, here, there) if field in _SIZES else _said(field, before, after)
        line = Text(f"  {field}: {both}")
        if reason := _why(field, before, here, there):
            line.append(f"\n    {reason}", "dim")
        lines.append(line)
    return lines


def _said(field: str, before: object, after: object) -> str:
    return f"{words.said(field, before)} -> {words.said(field, after)}"


def _sized(field: str, here: Sequence[Row], there: Sequence[Row]) -> str:
    """Both sides of a number, as a range where rows differ."""
    if field == "scale":
        return f"{words.formulas(here)} -> {words.formulas(there)}"
    sides = [[getattr(row, field) for row in rows] for rows in (here, there)]
    return " -> ".join("none" if None in values else words.ranged([(value,) for value in values]) for values in sides)


def _why(field: str, before: Any, here: Sequence[Row], there: Sequence[Row]) -> str:
    """What the change of a field does to a step; nothing where the field's own two values say it."""
    if field == "row":
        return "it has no state yet" if before is None else "its state in a checkpoint has no place any more"
    if field in ("scale", "target"):
        return _of_size(here, there)
    return _REASONS[field](here[0], there[0]) if field in _REASONS else ""


def _of_size(here: Sequence[Row], there: Sequence[Row]) -> str:
    """How a step of lr 1 changes, where both rules say how large it is."""
    before, after = ([math.hypot(*(step.rms for step in steps(row))) for row in rows] for rows in (here, there))
    ratios = [(b / a,) for a, b in zip(before, after, strict=True) if a > 0 and b > 0]
    if len(ratios) < len(here) or any(len(a.blocks) != len(b.blocks) for a, b in zip(here, there, strict=True)):
        return ""
    return f"a step is {words.ranged(ratios)} times as large at the same lr (RMS)"


def _of_blocks(here: Row, there: Row) -> str:
    counts = [max(len(row.blocks), 1) for row in (here, there)]
    if counts[0] == counts[1]:
        return "the same number of norms, of other entries"
    one = "each block gets a norm of its own: a large gradient of one no longer takes from the others' steps"
    return (
        one if counts[1] > counts[0] else "blocks share one norm: a large gradient of one takes from the others' steps"
    )


def _of_axes(here: Row, there: Row) -> str:
    fans = [f"{row.fan_in}→{row.fan_out}" for row in (here, there)]
    same = f"fan-in→fan-out {fans[0]} becomes {fans[1]}"
    return f"{same}, and with it the scale" if fans[0] != fans[1] else "the matrix that a norm sees is another one"


def _of_norm(here: Row, there: Row) -> str:
    return _BOUNDED[norms[there.norm].shape] if there.rule != "none" and there.norm in norms else ""


def _of_frozen(here: Row, there: Row) -> str:
    return "it gets no step" if there.frozen else "it gets steps"


_REASONS: dict[str, Callable[[Row, Row], str]] = {
    "aliases": lambda here, there: "names that share a tensor share its one step",
    "shape": lambda here, there: "a state of the other shape doesn't load",
    "role": lambda here, there: "the recipe chooses norm, rule and radius by the role",
    "axes": _of_axes,
    "blocks": _of_blocks,
    "norm": _of_norm,
    "rule": lambda here, there: "no step at all" if there.rule == "none" else "another chain of stages, other states",
    "mass": lambda here, there: "its share of what a step moves the output by",
    "frozen": _of_frozen,
}
