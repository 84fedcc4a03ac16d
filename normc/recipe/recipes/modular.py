"""Modula: every parameter's step by its share of feature learning over its gain to the output (Large et al., arXiv
2405.14813, and Bernstein and Newhouse, arXiv 2410.21265).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy

from normc.errors import NormcError
from normc.plans.balance import balanced, bounded_gain, gain_of, largest_gain, typical_gain
from normc.plans.geometry import Geometry, norms
from normc.plans.row import D_IN, KERNEL, Role, Row
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Recipe, Values
from normc.recipe.stages.apply import Descend, Project, Regularize
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import Ema, WarmEma
from normc.recipe.stages.norm import Lmo, Rescale

# The norm of each role, and why.
_ROLES: dict[Role, tuple[str, str]] = {
    "input": ("spectral", "dense input: RMS to RMS"),
    "hidden": ("spectral", "activations in, activations out: RMS to RMS"),
    "output": ("spectral", "activations in, outputs out: RMS to RMS"),
    "router": ("spectral", "activations in, scores out: RMS to RMS"),
    "embedding": ("colnorm", "one-hot input: 1 to RMS"),
    "position": ("colnorm", "one place at a time: 1 to RMS"),
    "token": ("rms", "one vector, added to activations: RMS"),
    "gain": ("rms", "one vector, multiplied into activations: RMS"),
    "bias": ("rms", "one vector, added to activations: RMS"),
    "depthwise": ("rownorm", "each channel's filter by itself: RMS to max"),
    "state": ("sign", "no matrix: each entry by itself"),
    "scalar": ("sign", "no matrix: each entry by itself"),
    "unused": ("sign", "no gradient reaches it"),
}


@dataclass(frozen=True)
class ModularDual(Recipe):
    """Steepest descent in the modular norm: each row's unit step, times mass / (sensitivity * magnitude).

    `most` is the largest known gain of the plan: what a row of unknown gain counts with. `typical` is the median of
    average gains, beside which those of single rows are bounded.
    """

    name: ClassVar[str] = "modular-dual"
    summary: ClassVar[str] = "each norm's unit step by mass and sensitivity, bounded at the output"
    source: ClassVar[str] = "arXiv 2410.21265"
    formula: ClassVar[str] = (
        "m = momentum m + (1 - momentum) g;  w = w - lr scale lmo(m);  w = (1 - lr weight_decay target) w;  "
        "target = mass / (S R)"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "gains": "average",
        "blocks_mass": 5.0,
        "vector_mass": 0.1,
        "position_mass": 0.03,
        "project_embeddings": False,
        "polynomial": "polar-express",
        "ns_steps": 5,
    }
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 0.0},
    )
    rule: ClassVar[str] = "lmo"
    lr: ClassVar[float | None] = 0.8

    most: float | None = None
    typical: float | None = None

    def seeing(self, rows: Iterable[Row], blocks: int = 0) -> Recipe:
        """With the largest known gain of a plan's drafts, and the typical one."""
        rows = list(rows)
        most, typical = largest_gain(rows), typical_gain(rows) if self.gains == "average" else None
        return replace(self, most=None if most is None else bounded_gain(most, typical), typical=typical)

    def geometry(self, row: Row) -> Geometry:
        """The role's norm; the target from mass, sensitivity and magnitude."""
        norm, reason = _ROLES[row.role]
        if row.role == "unused":
            return Geometry(norm, "none", 0.0, sympy.Integer(0), reason)
        if row.mass is None:
            raise NormcError(f"{row.name} has no mass", "make the plan with normc.plan")
        if norm == "spectral" and row.kernel > 1:
            norm, reason = "slices", f"{reason}, at each of {row.kernel} places of the window"
        if tied(row):
            norm, reason = "sign", "embedding and output at once: the norm that serves both, RMS to max"
        if row.fallback is not None:
            norm, reason = "sign", f"fallback, bounded by the fan-in: {row.fallback}"
        if row.mass == 0:
            return Geometry(norm, "none", 0.0, sympy.Integer(0), reason, "mass 0: it learns nothing")
        target, why = self._target(row, row.mass)
        return Geometry(norm, self.rule, target, target * _factor(row, norm), reason, why)

    def _target(self, row: Row, mass: float) -> tuple[float, str]:
        gain = gain_of(row, self.most)
        if gain is not None:
            counted = bounded_gain(gain, self.typical)
            far = f", counted as {counted:.6g}: no more than 1000 times the typical gain" if counted < gain else ""
            return mass / counted, f"mass {mass:.6g} / (S {row.sensitivity:.6g} * R {row.magnitude:.6g}){far}"
        if self.most is not None:
            own = "isn't known" if row.sensitivity is None else f"is {row.sensitivity:.3g}, next to nothing"
            return mass / self.most, f"mass {mass:.6g} / {self.most:.6g}, the largest known gain: its own {own}"
        return mass, f"mass {mass:.6g} / 1: no parameter's gain is known"

    def sphere(self, row: Row) -> sympy.Expr:
        """Radius 1."""
        return _factor(row, row.norm)

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """One chain: a direction of the row's norm, the step, then the weights' own decay."""
        if rule == "none":
            return ()
        if rule != self.rule:
            raise NormcError(f"the recipe {self.name} has no rule {rule!r}", f"known: {self.rule}, none")
        project = (Project(),) if self.option("project_embeddings") else ()
        return (*self._direction(), Descend(), Regularize(), *project)

    def _direction(self) -> tuple[Stage, ...]:
        return Ema(), Lmo(self.steps())


@dataclass(frozen=True)
class Modula(ModularDual):
    """Momentum with each row's norm set to mass / (sensitivity * magnitude), as in Modula's package."""

    name: ClassVar[str] = "modula"
    summary: ClassVar[str] = "momentum, each norm set by mass and sensitivity, bounded at the output"
    source: ClassVar[str] = "arXiv 2405.14813 and its package modula"
    formula: ClassVar[str] = (
        "m = m + (1 - momentum)^((t - 1) / t) (g - m);  w = w - lr scale m / norm(m);  "
        "w = (1 - lr weight_decay target) w;  target = mass / (S R)"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "gains": "average",
        "blocks_mass": 5.0,
        "vector_mass": 0.1,
        "position_mass": 1.0,
        "project_embeddings": False,
    }
    rule: ClassVar[str] = "norm"

    def _direction(self) -> tuple[Stage, ...]:
        return WarmEma(), Rescale()


def tied(row: Row) -> bool:
    """Whether a row is a table and the head at once."""
    return row.role == "output" and any(use.role in ("embedding", "position") for use in row.uses)


def _factor(row: Row, norm: str) -> sympy.Expr:
    """The norm's geometric factor; that of a fallback is bounded by its fan-in."""
    if row.role in ("state", "scalar") and row.fallback is None:
        return sympy.Integer(1)
    if norm == "sign":
        return 1 / (D_IN * KERNEL) if row.fan_in > 0 else sympy.Integer(1)
    return norms[norm].scale


for recipe in (ModularDual(), Modula()):
    recipes.add(recipe.name, recipe, __name__)
    balanced.add(recipe.name, recipe.state_bytes, __name__)
