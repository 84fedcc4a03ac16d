"""The plain file: a docstring, the ops, a function for each rule, a table of the parameters, and one class."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from normc.errors import NormcError
from normc.plans.row import Row
from normc.update.ops.bounding import clip_logits
from normc.update.plain.optimizer import HELD, LOAD, PARTED, TEMPLATE
from normc.update.plain.patterns import Profiles, over_text, patterns
from normc.update.plain.rules import Rule, Writer, rules_of
from normc.update.plain.sources import Library, reachable
from normc.update.plain.wrapping import WIDTH, docstring, fill, prose, wrap
from normc.update.program.listing import Grouped
from normc.update.program.program import Program
from normc.update.program.source import comment, literal

DIGITS, FULL = 8, 17  # beyond the rounding of float32, and all of float64


class Described(Grouped, Protocol):
    """What a plain file tells of its recipe."""

    @property
    def summary(self) -> str:
        """In a line."""

    @property
    def source(self) -> str:
        """The paper."""

    def own_lr(self) -> float | None:
        """The learning rate where none is given."""


def write(program: Program, recipe: Described, version: str) -> str:
    """The file of a program whose chains are plain. NormcError for an update that needs the runtime."""
    for chain in program.chains:
        if any(node.target is clip_logits for node in chain.graph.nodes):
            what = f"{chain.row.name} is clipped by its heads' logits, which a plain file has no way to be told of"
            raise NormcError(what, "leave plain out, or plan without qk_clip")
    constants: dict[object, str] = {}
    rules = rules_of(program.chains)
    steps = [node.kwargs["polynomials"] for rule in rules for node in rule.graph.nodes if "polynomials" in node.kwargs]
    library = Library(["c == 0.0"] if all(c != 0.0 for polynomials in steps for _, _, c in polynomials) else [])
    ops = reachable(node.target for rule in rules for node in rule.graph.nodes if callable(node.target))
    functions = ["\n".join(Writer(rule, library, constants, ops).lines()) for rule in rules]
    wide = any(row.dtype == "float64" for rule in rules for row in rule.rows)
    profiles = Profiles(FULL if wide else DIGITS)
    groups = sorted({rule.group for rule in rules}) or [0]
    table = _table(rules, program.idle, profiles, groups)
    named = [part for value, name in constants.items() for part in wrap(f"{name} = {literal(value)}")]
    named = ["\n".join([*named, *profiles.lines()])] if named or profiles.known else []
    parts = [*named, *library.sources(), *functions, table, _optimizer(program, recipe, groups)]
    head = _head(program, recipe, version, "math." in "\n".join(parts))
    apart = [*named, *("\n" + part for part in parts[len(named) :])]
    return "\n\n".join([head, *apart])


def _head(program: Program, recipe: Described, version: str, math: bool) -> str:
    """The docstring and the imports."""
    number = sum(len(chain.rows) for chain in program.chains)
    what = f"Optimizer of {comment(program.model)}: recipe {comment(program.recipe)}, {number} parameters."
    source = f"{recipe.summary} ({recipe.source})"
    lr = "" if recipe.own_lr() is not None else ", lr=..."
    return "\n".join(
        [
            *prose(f'"""{what}'),
            "",
            *prose(f"{_safe(source[:1].upper() + source[1:])}."),
            *prose(f"Written by normc {comment(version)} from plan {comment(program.plan[:16])}; needs torch alone."),
            "",
            f"    opt = Optimizer(model.named_parameters(){lr})",
            "",
            *prose(_SEMANTICS),
            '"""',
            "",
            *(["import math"] if math else []),
            "from collections import defaultdict",
            "from itertools import product",
            "",
            "import torch",
            "from torch import Tensor",
        ]
    )


def _safe(text: str) -> str:
    """A recipe's own words, in a docstring."""
    return re.sub(r'[^ -~]|["\\\\]', "?", text)


_SEMANTICS = """
Steps are computed in float32 (float64 for parameters in float64), as states are kept; parameters are rounded once, at
the end. Functions take tensors with one more axis, of size one, in front. Values that aren't finite spread, as in
torch's optimizers.
"""


def _table(rules: list[Rule], idle: tuple[Row, ...], profiles: Profiles, groups: list[int]) -> str:
    """Every parameter, rule by rule, patterns of names together."""
    lines = [line for rule in rules for line in _entries(rule, profiles, groups.index(rule.group))]
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for row in idle:
        by_shape.setdefault(row.shape, []).append(row.name)
    lines += ["    # no gradient reaches these, or they have no entries"] if idle else []
    for shape, names in by_shape.items():
        for text, over, _ in patterns(names):
            lines += _entry(["None", "0", literal(text), over_text(over), literal(shape)])
    rows = [*(row for rule in rules for row in rule.rows), *idle]
    pairs = [f"{literal(alias)}: {literal(row.name)}" for row in rows for alias in row.aliases]
    renamed = fill("ALIASES = {", pairs, "}", 11) if pairs else []
    return "\n".join(
        [
            "# Function, parameter group, name, values of its stars, shape, arguments.",
            "TABLE = (",
            *lines,
            ")",
            *renamed,
        ]
    )


def _entries(rule: Rule, profiles: Profiles, group: int) -> Iterator[str]:
    """A rule's rows: those of one shape and pattern whose arguments differ in numbers alone share an entry."""
    varying = {name for name, values in rule.columns.items() if all(isinstance(value, float) for value in values)}
    place = {row.name: index for index, row in enumerate(rule.rows)}
    alike: dict[str, dict[object, list[Row]]] = {}
    for index, row in enumerate(rule.rows):
        fixed = tuple(values[index] for name, values in rule.columns.items() if name not in varying)
        alike.setdefault(_described(row), {}).setdefault((row.shape, fixed), []).append(row)
    for told, sections in alike.items():
        head = "; ".join(filter(None, (told, ", ".join(rule.columns))))
        yield from (f"    # {line}" for line in prose(head, width=WIDTH - 6))
        for rows in sections.values():
            yield from _section(rule, rows, varying, place, profiles, group)


def _section(
    rule: Rule, rows: list[Row], varying: set[str], place: dict[str, int], profiles: Profiles, group: int
) -> Iterator[str]:
    """Rows of one shape, pattern by pattern."""
    for text, over, names in patterns([row.name for row in rows]):
        own = [
            profiles.text([values[place[other]] for other in names])
            if name in varying
            else literal(values[place[names[0]]])
            for name, values in rule.columns.items()
        ]
        yield from _entry([rule.name, str(group), literal(text), over_text(over), literal(rows[0].shape), *own])


def _entry(items: list[str]) -> list[str]:
    return fill("    (", items, "),", 5)


def _described(row: Row) -> str:
    """What a row is, in a line."""
    parts: list[str] = [row.role]
    if row.in_axes and len(row.shape) > 1:
        parts.append("fan-in on axis " + " ".join(map(str, row.in_axes)))
    if row.blocks:
        labels = " ".join(block.label for block in row.blocks[:4])
        parts.append(f"blocks {labels}" if len(row.blocks) <= 4 else f"{len(row.blocks)} blocks")
    return comment(", ".join(parts))


def _optimizer(program: Program, recipe: Described, groups: list[int]) -> str:
    """The class, and what it knows of names beside the table."""
    rows = [*(row for chain in program.chains for row in chain.rows), *program.idle]
    states = {node.name for chain in program.chains for node in chain.graph.nodes if node.meta.get("state") == "grad"}
    values = _values(program, recipe, groups)
    several = (
        any(isinstance(value, tuple) for value in values.values()) or len({recipe.labels[own] for own in groups}) > 1
    )
    lr = recipe.own_lr()
    given = ["self", "named_parameters", "lr" if lr is None else f"lr={lr!r}"]
    given += [f"{name}={literal(value)}" for name, value in values.items()]
    own = [f'"{name}": {name}' for name in ("lr", *values)]
    names = ", ".join(_group_name(recipe, group) for group in groups)
    told = f"Steps the parameters of TABLE, in {len(groups)} groups: {names}." if len(groups) > 1 else "Steps TABLE."
    told += " A tuple has a value for each." if several else ""
    narrow = any(row.dtype in ("bfloat16", "float16") for row in rows)
    text = TEMPLATE.format(
        told="\n".join(docstring(told, 4)),
        init="\n".join(fill("    def __init__(", given, "):", 17)),
        values="\n".join(fill("        values = {", own, "}", 18)),
        number=len(groups),
        parted=PARTED if several else "",
        defaults='{"lr": values["lr"]}' if several else "values",
        given="{ALIASES.get(n, n): p for n, p in named_parameters}"
        if any(row.aliases for row in rows)
        else "dict(named_parameters)",
        idle="elif update is not None" if program.idle else "else",
        update="update, _" if program.idle else "*_",
        held="".join(HELD.format(state=state) for state in states),
        load=LOAD if narrow else "",
    )
    return text.rstrip() + "\n"


def _values(program: Program, recipe: Described, groups: list[int]) -> dict[str, float | tuple[float, ...]]:
    """The values that updates read, but for the learning rate: one, or one for each group where these differ."""
    found: dict[str, float | tuple[float, ...]] = {}
    for name in dict.fromkeys(name for group in groups for name in recipe.defaults[group]):
        readers = {
            chain.group
            for chain in program.chains
            if any(node.op == "placeholder" and node.name == name for node in chain.graph.nodes)
        }
        if readers:
            first = recipe.defaults[min(readers)][name]
            own = tuple(float(recipe.defaults[group][name] if group in readers else first) for group in groups)
            found[name] = own[0] if len(set(own)) == 1 else own
    return found


def _group_name(recipe: Described, group: int) -> str:
    """Whose it is, and which part."""
    label = f"{comment(recipe.labels[group])}'s " if len(set(recipe.labels)) > 1 else ""
    return f"{label}{'rest' if group % 2 else 'matrices'}"
