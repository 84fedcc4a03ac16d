"""Rows as a user wants them instead: another norm, scale or mass, with the evidence that it was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

import sympy

from normc.arguments import number
from normc.errors import NormcError
from normc.plans.balance import balanced, rebalanced, with_mass
from normc.plans.expression import read_formula, write_formula
from normc.plans.geometry import NORMED, Norm, norms
from normc.plans.row import Evidence, Row

_STATE_WIDTH = {"float64": 8}


class Asked(NamedTuple):
    """What the rows that match a pattern shall have: a norm by name, a scale, a mass, a factor of weight decay.

    None keeps their own.
    """

    pattern: str
    norm: str | None
    scale: float | sympy.Expr | None
    mass: float | None
    weight_decay: float | None = None


# What an override can change.
FIELDS = Asked._fields[1:]


def matching(rows: Iterable[Row], pattern: str) -> tuple[Row, ...]:
    """Rows one of whose names is `pattern` or matches it as a case-sensitive glob."""
    return tuple(
        row for row in rows if any(name == pattern or fnmatchcase(name, pattern) for name in (row.name, *row.aliases))
    )


def overridden(
    rows: tuple[Row, ...],
    chosen: set[str],
    asked: Asked,
    recipe: str,
) -> tuple[Row, ...]:
    """All rows, those called `chosen` changed: mass first, then norm, then scale, which has the last word.

    Where the recipe is one of masses, the others' masses change too: all sum to one again.
    """
    pattern, norm, scale, mass, weight_decay = asked
    if all(value is None for value in asked[1:]):
        raise NormcError(
            f"the override of {pattern!r} changes nothing", "give it a norm, a scale, a mass or a weight_decay"
        )
    part = norms[norm] if norm is not None else None
    formula = _formula(pattern, scale) if scale is not None else None
    if mass is not None:
        mass = number(f"the mass in the override of {pattern!r}", mass, "give a finite number, 0 or more")
    if weight_decay is not None:
        fix = "give a factor of the group's weight_decay, 0 or more: 0 for none"
        weight_decay = number(f"the weight_decay in the override of {pattern!r}", weight_decay, fix)
    dead = [row for row in rows if row.name in chosen and row.role == "unused"]
    if len(dead) == len(chosen) and asked != Asked(pattern, None, None, None, 0.0):  # its weights aren't decayed
        raise NormcError(f"no gradient reaches {dead[0].name!r}, so nothing can be chosen for it", "leave it out")
    widths = balanced.find(recipe)
    if mass is not None and widths is not None:
        rows = rebalanced(rows, chosen, mass, pattern)
        mass = None
    changed = []
    for row in rows:
        if row.name in chosen and row.role != "unused":
            row = row if mass is None else with_mass(row, mass, f"asked for by {pattern!r}")
            row = row if part is None else _with_norm(row, part, pattern)
            row = row if part is None or widths is None else replace(row, state_bytes=widths(row))
            row = row if formula is None else _with_scale(row, formula, pattern)
            row = row if weight_decay is None else _with_decay(row, weight_decay, pattern)
        changed.append(row)
    return tuple(changed)


def _formula(pattern: str, scale: float | sympy.Expr) -> sympy.Expr:
    """The scale's formula, checked and in the form in which a saved plan gives it back."""
    if isinstance(scale, sympy.Expr):
        return read_formula(write_formula(scale))
    fix = "give a finite number, 0 or more, or a sympy expression in normc.plans.row's D_OUT, D_IN and KERNEL"
    return read_formula(number(f"the scale in the override of {pattern!r}", scale, fix))


def _with_norm(row: Row, norm: Norm, pattern: str) -> Row:
    """The row under another norm, its target kept. A row of any other rule joins the rule that takes a norm's step."""
    if row.rule == "none":
        raise NormcError(
            f"{row.name} is frozen: it gets no step that a norm could shape", f"leave it out of {pattern!r}"
        )
    evidence = [Evidence("override", norm.name, f"asked for by {pattern!r}")]
    if (
        norm.shape in ("matrix", "slices", "columns", "rows")
        and not row.in_axes
        and not row.out_axes
        and len(row.shape) > 1
    ):
        row = as_torch_stores_it(row)
        evidence.append(
            Evidence("override", "fan-out on axis 0, fan-in on axis 1", "assumed, as torch.nn stores weights")
        )
    if row.rule not in NORMED:
        evidence.append(Evidence("override", "rule lmo", f"rule {row.rule} takes no norm"))
        row = replace(row, rule="lmo", state_bytes=row.numel * _STATE_WIDTH.get(row.dtype, 4))
    formula = read_formula(write_formula(row.target * norm.scale))
    return replace(row, norm=norm.name, scale=row.scaled(formula), fallback=None, evidence=(*row.evidence, *evidence))


def as_torch_stores_it(row: Row) -> Row:
    """The row of a matrix or filter with fan-out on axis 0 and fan-in on axis 1: an assumption."""
    kernel = tuple(range(2, len(row.shape)))
    return replace(
        row, out_axes=(0,), in_axes=(1,), kernel_axes=kernel, fan_out=row.shape[0], fan_in=math.prod(row.shape[1:])
    )


def _with_scale(row: Row, formula: sympy.Expr, pattern: str) -> Row:
    """The row with another scale; its target becomes what that scale is in the operator norm, for the first block.

    That is in proportion to the scale that the row had: a recipe may have another factor than the norm's own.
    """
    if row.rule == "none":
        raise NormcError(f"{row.name} is frozen: it gets no step to scale", f"leave it out of {pattern!r}")
    scale = row.scaled(formula)
    if not all(0 <= value < math.inf for value in scale.per_block):
        raise NormcError(f"the scale {formula} is {scale.value} for {row.name}", "give one that is 0 or more")
    if row.target > 0 and row.scale.value > 0:
        target = row.target * (scale.value / row.scale.value)
    else:
        factor = row.scaled(norms[row.norm].scale).value if row.rule in NORMED else 1.0
        target = scale.value / factor if 0 < factor < math.inf else scale.value
    evidence = Evidence("override", f"scale {formula}", f"asked for by {pattern!r}")
    return replace(row, scale=scale, target=target, evidence=(*row.evidence, evidence))


def _with_decay(row: Row, factor: float, pattern: str) -> Row:
    """The row with a factor of its own for the group's weight decay."""
    if row.rule == "none" and factor:
        raise NormcError(f"{row.name} is frozen: its weights aren't decayed", f"leave it out of {pattern!r}")
    evidence = Evidence("override", f"weight_decay times {factor:g}", f"asked for by {pattern!r}")
    return replace(row, decay=factor, evidence=(*row.evidence, evidence))
