"""The default: Modula's targets, with what the workloads showed to be better than the theory's own example
(docs/evidence.md): decay, a look ahead, kernels as one matrix, masses of tables, Adam for a table that is the head too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy

from normc.errors import NormcError
from normc.plans.balance import balanced
from normc.plans.geometry import NORMED, Geometry
from normc.plans.row import D_IN, D_OUT, KERNEL, Role, Row
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Recipe, Values
from normc.recipe.recipes.modular import ModularDual, tied
from normc.recipe.stages.apply import Descend, Regularize
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import Ema, Nesterov
from normc.recipe.stages.norm import Lmo, NeuronLmo
from normc.recipe.stages.precondition import AdamDirection
from normc.recipe.stages.size import Radius

# Roles whose weights belong elsewhere than at zero: decay would pull them off.
SPARED: tuple[Role, ...] = ("gain", "state", "scalar")
_VALUES: Values = {"momentum": 0.9, "weight_decay": 0.1, "beta2": 0.95, "eps": 1e-10}


@dataclass(frozen=True)
class Auto(ModularDual):
    """`modular-dual` with decay and Nesterov's momentum, and choices of its own.

    kernels   flat: a convolution's filters are the rows of one matrix; slices: a matrix for each place of the window.
    tied      what a table gets that is the head too: adam, entry by entry, with the Frobenius norm of a head's spectral
              step; or sign, the one norm that bounds both uses.
    neurons   whether the rows of each spectral step are evened out by an average of their squares (arXiv 2510.05491).
    nesterov  whether the average of gradients is looked at one step ahead.

    A table of positions beside a table that is the head too takes steps as small as that table's: `tied_widths` are the
    widths of such tables.
    """

    name: ClassVar[str] = "auto"
    summary: ClassVar[str] = "the default: modular targets, with decay, for one lr on every model"
    source: ClassVar[str] = "arXiv 2410.21265; what differs from it and what that gains is in docs/evidence.md"
    formula: ClassVar[str] = (
        "m = momentum m + (1 - momentum) g;  w = w - lr scale lmo(nesterov(g, m));  "
        "w = (1 - lr weight_decay target) w;  target = mass / (S R);  Adam for a table that is the head too"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "gains": "average",
        "blocks_mass": 5.0,
        "vector_mass": 0.1,
        "position_mass": 0.3,
        "embedding_mass": 0.3,
        "kernels": "flat",
        "tied": "adam",
        "neurons": False,
        "nesterov": True,
        "polynomial": "polar-express",
        "ns_steps": 5,
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"kernels": ("flat", "slices"), "tied": ("adam", "sign")}
    defaults: ClassVar[tuple[Values, ...]] = (_VALUES, _VALUES)
    lr: ClassVar[float | None] = 0.8
    normed: ClassVar[tuple[str, ...]] = (*NORMED, "adam")

    tied_widths: tuple[int, ...] = ()

    def seeing(self, rows: Iterable[Row], blocks: int = 0) -> Recipe:
        """Also with the widths of tables that are heads too."""
        rows = list(rows)
        widths = {row.fan_in for row in rows if self.text("tied") == "adam" and tied(row)}
        made = super().seeing(rows, blocks)
        assert isinstance(made, Auto)
        return replace(made, tied_widths=tuple(sorted(widths)))

    def geometry(self, row: Row) -> Geometry:
        """The role's norm, but for kernels, tied tables and positions beside these."""
        found = super().geometry(row)
        if found.rule == "none" or row.fallback is not None:
            return found
        if found.norm == "slices" and self.text("kernels") == "flat":
            why = "the window's places count as fan-in"
            return self._with(found, "spectral", found.rule, _flat(), f"{row.role}: RMS to RMS, {why}")
        if tied(row) and self.text("tied") == "adam":
            why = "embedding and output at once: entry by entry, with the Frobenius norm of a head's spectral step"
            return self._with(found, "sign", "adam", 1 / sympy.sqrt(D_IN), why)
        if row.role == "position" and row.fan_out in self.tied_widths:
            why = "one place at a time, beside a table whose entries are 1 / sqrt(width)"
            return self._with(found, found.norm, found.rule, sympy.Integer(1), why)
        return found

    @staticmethod
    def _with(found: Geometry, norm: str, rule: str, factor: sympy.Expr, reason: str) -> Geometry:
        return replace(found, norm=norm, rule=rule, formula=found.target * factor, reason=reason)

    def sphere(self, row: Row) -> sympy.Expr:
        """Radius 1."""
        if row.rule == "adam":
            return 1 / sympy.sqrt(D_IN)
        if row.norm == "spectral" and row.kernel > 1:
            return _flat()
        if row.role == "position" and math.isclose(row.scale.value, row.target):
            return sympy.Integer(1)  # beside a tied table, as its scale says: a plan's recipe doesn't know the others
        return super().sphere(row)

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """A direction of the row's norm or Adam's, the step, then the weights' own decay."""
        unit = NeuronLmo(self.steps()) if self.option("neurons") else Lmo(self.steps())
        moment = Nesterov() if self.option("nesterov") else Ema()
        chains: dict[str, tuple[Stage, ...]] = {
            "lmo": (moment, unit, Descend(), Regularize(SPARED)),
            "adam": (AdamDirection(), Radius(), Descend(), Regularize(SPARED)),
            "none": (),
        }
        if rule not in chains:
            raise NormcError(f"the recipe {self.name} has no rule {rule!r}", f"known: {', '.join(chains)}")
        return chains[rule]


def _flat() -> sympy.Expr:
    """The factor of filters [out, in k] as one matrix: sqrt(out / (in k))."""
    return sympy.sqrt(D_OUT / (D_IN * KERNEL))


recipes.add(Auto.name, Auto(), __name__)
balanced.add(Auto.name, Auto().state_bytes, __name__)
