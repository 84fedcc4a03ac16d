"""The tables of a generated module: entries, aliases, buckets, and what all of them are of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from normc.plans.row import Block, Row
from normc.update.program.program import Family, Program, placeholders
from normc.update.program.source import INDENT, Printer, literal


class Form(Protocol):
    """Another form of families' steps, beside that on lists of tensors."""

    def swaps(self, family: Family) -> Mapping[Any, Any]:
        """What is called in place of ops of a family's core, and imported."""

    @property
    def helpers(self) -> list[str]:
        """Functions that the steps call."""

    def step(self, family: Family) -> str | None:
        """A family's step in that form, if it has one."""

    def bucket(self, printer: Printer, family: Family) -> list[str]:
        """What the family's bucket says of it."""


class Grouped(Protocol):
    """What a module needs to know of its recipe: the parameter groups' values, and whose each is."""

    @property
    def defaults(self) -> tuple[Mapping[str, float], ...]:
        """Of each group."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Of each group, its recipe's name."""

    @property
    def known(self) -> Mapping[str, Any]:
        """Every option's default."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Options that were set."""


WIDTH = 120  # of a line


def tables(program: Program, recipe: Grouped, printer: Printer, form: Form | None) -> str:
    """ENTRIES, ALIASES, BUCKETS and the UPDATE of them all, as source."""
    kept = program.build.storage
    lines = ["ENTRIES = {"]
    groups = [(row, chain.group, False) for chain in program.chains for row in chain.rows]
    rows = sorted([*groups, *((row, 1, True) for row in program.idle)], key=lambda item: item[0].name)
    lines += [_entry(*item) for item in rows]
    lines += ["}", "", "ALIASES = {" if any(row.aliases for row, _, _ in rows) else "ALIASES: dict[str, str] = {"]
    lines += [f"{INDENT}{literal(alias)}: {literal(row.name)}," for row, _, _ in rows for alias in row.aliases]
    lines += ["}", "", "BUCKETS = ("]
    for family in program.families:
        lines += _bucket(family, form.bucket(printer, family) if form is not None else [])
    lines += [")", "", "UPDATE = Update("]
    lines.append(f"{INDENT}plan={literal(program.plan)},")
    lines.append(f"{INDENT}recipe={literal(program.recipe)},")
    lines.append(f"{INDENT}defaults=(")
    for values in recipe.defaults:
        lines.append(f"{INDENT * 2}{{{_pairs(values)}}},")
    labels = [] if len(set(recipe.labels)) == 1 else [f"{INDENT}labels={literal(recipe.labels)},"]
    lines += [
        f"{INDENT}),",
        f"{INDENT}entries=ENTRIES,",
        f"{INDENT}aliases=ALIASES,",
        f"{INDENT}buckets=BUCKETS,",
        *labels,
        *([f"{INDENT}options={{{_pairs(changed)}}},"] if (changed := altered(recipe)) else []),
        *([f"{INDENT}without={literal(program.build.without)},"] if program.build.without else []),
        *([f"{INDENT}state={kept.like},"] if kept.like is not None else []),
        *([f"{INDENT}stochastic=True,"] if kept.stochastic else []),
        *([f"{INDENT}offload=True,"] if kept.offload else []),
        f"{INDENT}reads={literal(reads(program, len(recipe.defaults)))},",
        ")",
    ]
    text = "\n".join(lines)
    return text.replace("ALIASES: dict[str, str] = {\n}", "ALIASES: dict[str, str] = {}").replace(
        "BUCKETS = (\n)", "BUCKETS = ()"
    )


def reads(program: Program, groups: int) -> tuple[tuple[str, ...], ...]:
    """Of each parameter group, the values that its chains read."""
    found: list[dict[str, None]] = [{} for _ in range(groups)]
    for chain in program.chains:
        found[chain.group] |= dict.fromkeys(node.name for node in placeholders(chain.graph, "number"))
    return tuple(tuple(sorted(own)) for own in found)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{literal(name)}: {literal(value)}" for name, value in values.items())


def _entry(row: Row, group: int, idle: bool) -> str:
    flags = "".join(f", {name}=True" for name, on in (("idle", idle), ("frozen", waits(row))) if on)
    start, said = (
        f"{INDENT}{literal(row.name)}: Entry(",
        f"{literal(row.shape)}, {group}, {literal(summary(row))}{flags}",
    )
    if len(whole := f"{start}{said}),") <= WIDTH:
        return whole
    inner = INDENT * 2
    if len(f"{inner}{said}") > WIDTH:  # as a formatter breaks it
        parts = [literal(row.shape), str(group), literal(summary(row)), *flags.split(", ")[1:]]
        said = f",\n{inner}".join(parts) + ","
    return f"{start}\n{inner}{said}\n{INDENT}),"


def waits(row: Row) -> bool:
    """Whether a gradient that comes to a row is what its plan knows of: of an unused one it knows nothing."""
    return row.frozen and row.role != "unused"


def summary(row: Row) -> str:
    """What tells a row of one plan from that of another, for checkpoints: fields, of which none may go or move."""
    numbers = " ".join(f"{value:.9g}" for value in row.scale.per_block)
    told = f"{row.role}, {row.rule}, {row.norm}, scale {numbers}"
    if row.rule == "none":
        return told
    places = (("out", row.out_axes), ("in", row.in_axes), ("kernel", row.kernel_axes), ("block", row.block_axes))
    axes = " ".join(f"{use} {' '.join(map(str, own))}" for use, own in places if own)
    told += f", axes {axes}" if axes else ", no axes"
    return told + (f", blocks {' '.join(map(_spans, row.blocks))}" if row.blocks else "")


def _spans(block: Block) -> str:
    """`0(0:32)`: the axis, and where the block lies on it; a fingerprint where it lies in many places."""
    spans = "+".join(f"{start}:{stop}" for start, stop in block.spans)
    long = len(block.spans) > 4
    return f"{block.axis}({hashlib.sha256(spans.encode()).hexdigest()[:12] if long else spans})"


def altered(recipe: Grouped) -> Mapping[str, Any]:
    """A recipe's options that differ from their default."""
    return {name: value for name, value in sorted(recipe.options.items()) if value != recipe.known.get(name)}


def _bucket(family: Family, more: list[str]) -> list[str]:
    return [line for rows in (_rows(family), *family.again) for line in _turn(family, rows, more)]


def _rows(family: Family) -> tuple[Row, ...]:
    return tuple(row for chain in family.chains for row in chain.rows)


def _turn(family: Family, rows: tuple[Row, ...], more: list[str]) -> list[str]:
    """The function with the rows of one turn."""
    inner = INDENT * 2
    states = literal(family.chains[0].states)
    lines = [f"{INDENT}Bucket(", f'{inner}"{family.name}",', f"{inner}{family.name},"]
    lines += [f"{inner}{family.chains[0].group},", f"{inner}{states},", f"{inner}("]
    lines += [f"{INDENT * 3}{literal(row.name)}," for row in rows]
    if lines[-2] == f"{inner}(":  # as a formatter puts a single name
        lines[-2:] = [f"{inner}({lines[-1].strip()}),"]
    else:
        lines.append(f"{inner}),")
    lines += [f"{inner}pieces={family.pieces},"] if family.pieces else []
    return [*lines, *more, f"{INDENT}),"]
