"""Adalayer: one average of squares a layer, and for the last layer one a row (Zhao et al., arXiv 2407.07972)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy

from normc.errors import NormcError
from normc.plans.geometry import Geometry
from normc.plans.row import Row
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Recipe, Values
from normc.recipe.stages.apply import Descend, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.precondition import Even, Memory, Precondition, Settling, UnbiasedEma
from normc.recipe.stages.size import Radius
from normc.recipe.stages.statistics import Mean, Means

# The mean of each rule, and for what.
_RULES: Mapping[str, tuple[Mean, str]] = {
    "block": ("block", "one average of squares for each block"),
    "rows": ("row", "one average of squares for each output"),
    "indices": ("column", "one average of squares for each index"),
}


class Adalayer(Recipe):
    """Adam's average gradient over the root of one average square a block: queries, keys and values have their own.

    frozen_after      0, or a number of steps: squares are averaged up to it, and then stay as they are. The paper takes
                      1000, at an lr of 0: give that lr for those steps. As in its authors' code no bias is taken out.
    embedding_rows    one average for each index of an embedding.
    decay             decoupled, independent (of lr), or cautious.
    """

    name: ClassVar[str] = "adalayer"
    summary: ClassVar[str] = "the average gradient over the root of one average square a layer"
    source: ClassVar[str] = "arXiv 2407.07972, and its authors' code"
    formula: ClassVar[str] = (
        "m = momentum m + (1 - momentum) g;  v = beta2 v + (1 - beta2) mean(g^2);  "
        "w = (1 - lr weight_decay) w - lr unbiased(m) / (sqrt(unbiased(v)) + eps)"
    )
    known: ClassVar[Mapping[str, Option]] = {"frozen_after": 0, "embedding_rows": False, "decay": "decoupled"}
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.95, "eps": 1e-15},
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.95, "eps": 1e-15},
    )
    by_row: ClassVar[tuple[str, ...]] = ()

    def geometry(self, row: Row) -> Geometry:
        """By role: the last layer's rows, an embedding's if asked for, else blocks."""
        if row.role == "unused":
            return Geometry("sign", "none", 0.0, sympy.Integer(0), "no gradient reaches it")
        rule = "rows" if row.role in self.by_row else "block"
        if row.role == "embedding" and self.option("embedding_rows"):
            rule = "indices"
        return Geometry("sign", rule, 1.0, sympy.Integer(1), _RULES[rule][1])

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """Three chains, "block", "rows" and "indices", which differ in what the average is of."""
        if rule == "none":
            return ()
        if rule not in _RULES:
            raise NormcError(f"the recipe {self.name} has no rule {rule!r}", f"known: {', '.join(_RULES)}, none")
        memory = self._memory(adapts=rule != "block")
        direction = (UnbiasedEma(), Precondition(Means(_RULES[rule][0]), memory), Radius())
        return (*direction, decay_named(self.text("decay")), Descend())

    def _memory(self, adapts: bool) -> Memory:
        until = self.number("frozen_after")
        if until < 0 or until % 1:
            raise NormcError(f"frozen_after can't be {until}", "give a whole number of steps, or 0 for none")
        return Settling(int(until), adapts) if until else Even()


class AdalayerStar(Adalayer):
    """Adalayer whose last layer has one average a row, which goes on adapting where the others are frozen."""

    name: ClassVar[str] = "adalayer-star"
    summary: ClassVar[str] = "one average square a layer, one a row of the last"
    by_row: ClassVar[tuple[str, ...]] = ("output",)


for recipe in (Adalayer(), AdalayerStar()):
    recipes.add(recipe.name, recipe, __name__)
