"""SOAP: Adam in the slowly refreshed eigenbases of Shampoo's factors (Vyas et al., arXiv 2409.11321)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypedDict

import sympy

from normc.errors import NormcError
from normc.plans.geometry import Geometry
from normc.plans.row import Row
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Recipe, Values
from normc.recipe.stages.apply import Descend
from normc.recipe.stages.build import Stage
from normc.recipe.stages.kronecker import Rotate, Sides, is_matrix
from normc.recipe.stages.late import LateAdam, LateDecay
from normc.recipe.stages.size import Radius


class Bases(TypedDict):
    """Which bases `Rotate` keeps, and when they are refreshed."""

    every: int
    beta: float | None
    sides: Sides
    largest: int


# `one_sided` rotates the shorter side alone. A `shampoo_beta` below 0 means beta2.
BASES: Mapping[str, Option] = {
    "precondition_frequency": 10,
    "max_precond_dim": 10000,
    "one_sided": False,
    "shampoo_beta": -1.0,
}


class Soap(Recipe):
    """Every matrix in its own eigenbases, in each block apart; Adam for the rest. As its authors' code has it:

    - the first step of a parameter makes its bases and moves nothing, not even by weight decay;
    - weight decay comes after the step;
    - eps is added to the root of the average square before bias is taken out.

    The authors' code takes one basis for each axis of a tensor; here a convolution is a matrix of filters, and experts,
    groups, queries, keys and values are matrices of their own.
    """

    name: ClassVar[str] = "soap"
    summary: ClassVar[str] = "Adam in the eigenbases of Shampoo's preconditioner"
    source: ClassVar[str] = "arXiv 2409.11321, and its authors' code"
    formula: ClassVar[str] = (
        "L = beta2 L + (1 - beta2) g g^T, R likewise, of eigenbases Q, P;  h = Q^T g P;  "
        "m = momentum m + (1 - momentum) h;  v = beta2 v + (1 - beta2) h^2;  "
        "w = (1 - lr weight_decay) (w - lr unbiased(Q (m / (sqrt(v) + eps)) P^T))"
    )
    known: ClassVar[Mapping[str, Option]] = {**BASES, "normalize_grads": False, "correct_bias": True}
    defaults: ClassVar[tuple[Values, Values]] = (
        {"momentum": 0.95, "weight_decay": 0.01, "beta2": 0.95, "eps": 1e-8},
        {"momentum": 0.95, "weight_decay": 0.01, "beta2": 0.95, "eps": 1e-8},
    )

    def geometry(self, row: Row) -> Geometry:
        """By layout: what has rows and columns is rotated. Without averages that would be the spectral norm's step."""
        if row.role == "unused":
            return Geometry("sign", "none", 0.0, sympy.Integer(0), "no gradient reaches it")
        if row.fallback is not None:
            return Geometry("sign", "adam", 1.0, sympy.Integer(1), f"fallback: {row.fallback}")
        if not is_matrix(row):
            return Geometry("sign", "adam", 1.0, sympy.Integer(1), "no rows and columns: every entry by itself")
        return Geometry("spectral", self.name, 1.0, sympy.Integer(1), "rows and columns, each in their eigenbasis")

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """Two chains, one called as the recipe is, and "adam"."""
        if rule == "none":
            return ()
        if rule not in (self.name, "adam"):
            raise NormcError(f"the recipe {self.name} has no rule {rule!r}", f"known: {self.name}, adam, none")
        first = LateAdam(**self.sized()) if rule == "adam" else self.rotation()
        return (first, Radius(), Descend(), LateDecay())

    def sized(self) -> dict[str, bool]:
        """How Adam's direction is sized."""
        return {"correct": bool(self.option("correct_bias")), "normalize": bool(self.option("normalize_grads"))}

    def rotation(self) -> Stage:
        """What matrices get in their eigenbases."""
        return Rotate(**self.sized(), **bases(self))


def bases(recipe: Recipe) -> Bases:
    """What a recipe's options say of its bases. NormcError for a frequency that is no whole number."""
    beta = recipe.number("shampoo_beta")
    return {
        "every": recipe.whole("precondition_frequency"),
        "beta": beta if beta >= 0 else None,
        "sides": "one" if recipe.option("one_sided") else "two",
        "largest": int(recipe.number("max_precond_dim")),
    }


recipes.add("soap", Soap(), __name__)
