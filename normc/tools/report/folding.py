"""Gains and biases of many sizes as one line: a convolutional network has a hundred norms of five widths."""

from __future__ import annotations

import re
from collections.abc import Sequence

from normc.plans.row import Row
from normc.tools.report.families import Family

_FEW = 4  # families of one kind that stay lines of their own
_VECTORS = ("gain", "bias")


def folded(found: Sequence[Family]) -> tuple[Family, ...]:
    """`found`, with one family for many of gains and biases whose names differ in numbers and in their last part, and
    whose sizes differ. All of one get the same norm by the same rule; what is tied, in blocks or a fallback stays.
    """
    kinds: dict[object, list[Family]] = {}
    for family in found:
        kinds.setdefault(_kind(family), []).append(family)
    lines: list[Family] = []
    for family in found:
        alike = kinds[_kind(family)]
        if not _folds(alike):
            lines.append(family)
        elif family is alike[0]:
            rows = tuple(row for one in alike for row in one.rows)
            lines.append(Family(_name(rows), (), rows))
    return tuple(lines)


def _kind(family: Family) -> object:
    """What the lines that become one agree in; the family itself where it stays a line."""
    row = family.rows[0]
    if row.role not in _VECTORS or len(row.shape) != 1 or row.blocks or row.aliases or row.fallback is not None:
        return family.name, id(family)
    return _stem(row.name), row.norm, row.rule, row.frozen, row.scale.formula.as_coeff_Mul()[1]


def _folds(alike: Sequence[Family]) -> bool:
    return len(alike) > _FEW and len({family.rows[0].shape for family in alike}) > 1


def _stem(name: str) -> str:
    """`layer2.0.bn1.weight` as `layer*.*.bn*`."""
    return re.sub(r"\d+", "*", name.rpartition(".")[0])


def _name(rows: Sequence[Row]) -> str:
    """`layer*.*.bn*.{weight,bias}`."""
    last = list(dict.fromkeys(row.name.rpartition(".")[2] for row in rows))
    return f"{_stem(rows[0].name)}.{last[0] if len(last) == 1 else '{' + ','.join(last) + '}'}".removeprefix(".")
