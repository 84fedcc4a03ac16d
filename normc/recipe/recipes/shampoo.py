"""Shampoo: each side of a matrix over a root of what its gradients have been (Gupta et al., arXiv 1802.09568)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy

from normc.errors import NormcError
from normc.plans.geometry import Geometry
from normc.plans.row import Row
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Recipe, Values
from normc.recipe.stages.apply import Decay, Descend
from normc.recipe.stages.build import Stage
from normc.recipe.stages.kronecker import Kron, is_matrix
from normc.recipe.stages.moments import Ema
from normc.recipe.stages.size import Radius

_POWERS = {"1/4": 0.25, "1/2": 0.5}


class Shampoo(Recipe):
    """Every matrix over the roots of its two factors, in each block apart; vectors over that of their one.

    The paper's algorithm: factors are sums (`beta2` 1; below 1 they are averages) that start at eps, tensors with one
    axis have one factor and its root -1/2. Sides longer than `max_precond_dim` have none; what has no side left gets
    AdaGrad, entry by entry. There is no grafting: lr is of Shampoo's own scale.

    Convolutions are matrices of filters, where the paper has a factor for each axis. With `interval` above 1 the roots
    are computed at the first step and every `interval` after it.
    """

    name: ClassVar[str] = "shampoo"
    summary: ClassVar[str] = "each side of a matrix over a root of its summed squares"
    source: ClassVar[str] = "arXiv 1802.09568; with power 1/2 arXiv 2406.17748"
    formula: ClassVar[str] = "L = L + g g^T;  R = R + g^T g;  w = w - lr (L + eps)^-1/4 g (R + eps)^-1/4"
    # `trace`, for power 1/2, multiplies by the root of the trace of L. `average` puts a running average of gradients
    # over the roots, by the groups' momentum. `vectors` are "full" or "diagonal".
    known: ClassVar[Mapping[str, Option]] = {
        "power": "1/4",
        "trace": False,
        "interval": 1,
        "average": False,
        "vectors": "full",
        "one_sided": False,
        "max_precond_dim": 10000,
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"power": tuple(_POWERS), "vectors": ("full", "diagonal")}
    defaults: ClassVar[tuple[Values, Values]] = (
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 1.0, "eps": 1e-6},
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 1.0, "eps": 1e-6},
    )

    def geometry(self, row: Row) -> Geometry:
        """By layout: factors for rows and columns. Without sums or averages that would be the spectral norm's step."""
        if row.role == "unused":
            return Geometry("sign", "none", 0.0, sympy.Integer(0), "no gradient reaches it")
        if row.fallback is not None:
            return Geometry("sign", "adagrad", 1.0, sympy.Integer(1), f"fallback: {row.fallback}")
        if is_matrix(row):
            return Geometry("spectral", "shampoo", 1.0, sympy.Integer(1), "rows and columns, a factor for each")
        if self.text("vectors") == "diagonal":
            return Geometry("sign", "adagrad", 1.0, sympy.Integer(1), "no rows and columns: every entry by itself")
        return Geometry("rms", "shampoo", 1.0, sympy.Integer(1), "a vector: one factor")

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """Two chains, "shampoo" and "adagrad"."""
        if rule == "none":
            return ()
        if rule not in ("shampoo", "adagrad"):
            raise NormcError(f"the recipe {self.name} has no rule {rule!r}", "known: shampoo, adagrad, none")
        power, trace = self.text("power"), bool(self.option("trace"))
        if trace and power != "1/2":
            raise NormcError("trace is of power 1/2: with 1/4 the step has no scale left to mend", "set power 1/2")
        largest = int(self.number("max_precond_dim")) if rule == "shampoo" else 0
        sides = "one" if self.option("one_sided") else "two"
        kron = Kron(_POWERS[power], trace, self.whole("interval"), sides, largest)  # type: ignore[arg-type]
        return (*([Ema()] if self.option("average") else []), kron, Radius(), Decay(), Descend())


recipes.add("shampoo", Shampoo(), __name__)
