"""Masses and what follows from them: how they are shared again, and the certificate that they bound a step's effect.

A recipe that divides a step by masses registers here: its rows have target = mass / (sensitivity * magnitude), so that
the sum of sensitivity * magnitude * target is the sum of masses, one (Modula, 2405.14813).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import sympy

from normc.errors import NormcError
from normc.plans.expression import read_formula, write_formula
from normc.plans.row import Evidence, Row, Scale
from normc.registry import Registry

StateBytes = Callable[[Row], int]
# Recipes by name whose masses sum to one and set their targets, with the bytes of state that a row will hold.
balanced: Registry[StateBytes] = Registry("recipe of masses", "normc.recipe.recipes")


class Certificate(NamedTuple):
    """Of the rows that learn. `masses`: the sum of their masses. `bound`: that of sensitivity * magnitude * target.

    For a recipe of masses both are 1: a step at lr moves the output by at most lr, to first order, by the gains that
    the plan was made with. `assumed` are the rows of unknown gain, which count with the largest known one.
    """

    masses: float
    bound: float
    assumed: tuple[str, ...]


# A gain this much smaller than the largest would make a step as much larger: it is taken for unknown.
_LEAST = 1e-6
# A gain this many times the typical one is doubted: an output that is taken for tiny makes such gains.
_FAR = 1e3


def gain_of(row: Row, most: float | None = None) -> float | None:
    """Sensitivity times magnitude; None where it isn't known, is no positive number, or vanishes beside `most`."""
    if row.sensitivity is None or row.magnitude is None:
        return None
    found = row.sensitivity * row.magnitude
    return found if _LEAST * (most or 0.0) < found < math.inf else None


def largest_gain(rows: Iterable[Row]) -> float | None:
    """The largest known gain; None where none is known."""
    return max((found for row in rows if (found := gain_of(row)) is not None), default=None)


def typical_gain(rows: Iterable[Row]) -> float | None:
    """The median of the known gains; None where none is known."""
    known = sorted(found for row in rows if (found := gain_of(row)) is not None)
    return known[len(known) // 2] if known else None


def bounded_gain(gain: float, typical: float | None) -> float:
    """A gain that is no more than so many times the typical one: a step is the mass over it, and would be nothing."""
    return gain if typical is None else min(gain, _FAR * typical)


def certify(rows: Iterable[Row]) -> Certificate:
    """The sums over all rows that learn."""
    rows = tuple(rows)
    most = largest_gain(rows)
    rows = tuple(row for row in rows if not row.frozen)
    gains = {row.name: gain_of(row, most) for row in rows}
    assumed = tuple(row.name for row in rows if gains[row.name] is None and row.target)
    bound = math.fsum(row.target * (gains[row.name] or most or 1.0) for row in rows)
    return Certificate(math.fsum(row.mass or 0.0 for row in rows), bound, assumed)


def with_mass(row: Row, mass: float, reason: str) -> Row:
    """The row with another mass; target and scale follow. NormcError if it had none. Mass 0 freezes it."""
    if mass == 0:
        return _frozen(row, reason)
    if not row.mass:
        raise NormcError(f"{row.name} has no mass, so {mass:g} is no share of anything", "override its scale instead")
    share = mass / row.mass
    evidence = Evidence("override", f"mass {mass:.6g}", f"{reason}; target and scale change by {share:.6g}")
    formula = read_formula(write_formula(share * row.scale.formula))
    return replace(
        row, mass=mass, target=share * row.target, scale=row.scaled(formula), evidence=(*row.evidence, evidence)
    )


def _scale_was_given(row: Row) -> bool:
    """Whether a user has set the row's scale, which then stays whatever becomes of the masses."""
    return any(found.fact == "override" and found.claim.startswith("scale ") for found in row.evidence)


def _frozen(row: Row, reason: str) -> Row:
    evidence = Evidence("override", "frozen", f"mass 0 was asked for by {reason.removeprefix('asked for by ')}")
    still = Scale(sympy.Integer(0), (0.0,) * len(row.block_fans))
    return replace(
        row, mass=0.0, target=0.0, scale=still, rule="none", frozen=True, state_bytes=0,
        evidence=(*row.evidence, evidence),
    )  # fmt: skip


def rebalanced(rows: tuple[Row, ...], chosen: set[str], mass: float, pattern: str) -> tuple[Row, ...]:
    """Each chosen row with that mass, all others scaled so that the masses of what learns sum to one again. Frozen rows
    have masses in wait, which take nothing from the others.

    NormcError if nothing would be left for the others, or nothing would learn.
    """
    given = [row for row in rows if row.name in chosen and row.role != "unused" and not row.frozen]
    others = math.fsum(row.mass or 0.0 for row in rows if row.name not in chosen and not row.frozen)
    left = 1.0 - mass * len(given)
    if others and left <= 0:
        raise NormcError(
            f"{len(given)} rows of mass {mass:g} leave nothing for the others", f"give less than {1 / len(given):g}"
        )
    if given and not others and not math.isclose(left, 0, abs_tol=1e-9):
        problem = "nothing would learn" if not mass else f"{len(given)} rows of mass {mass:g} don't sum to one"
        raise NormcError(f"{problem}: all other rows are frozen", f"give {1 / len(given):g}")
    found = []
    for row in rows:
        if row.name in chosen and row.role != "unused":
            row = with_mass(row, mass, f"asked for by {pattern!r}")
        elif row.mass and given and not row.frozen:
            own = row
            row = with_mass(row, row.mass * left / others, f"all masses sum to one, and {pattern!r} was given {mass:g}")
            row = replace(own, mass=row.mass) if _scale_was_given(own) else row
        found.append(row)
    return tuple(found)
