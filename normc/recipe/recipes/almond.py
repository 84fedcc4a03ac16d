"""ALMOND: the average of normed steps, where Scion takes the normed step of an average (arXiv 2502.07529, alg. 4)."""

from __future__ import annotations

from typing import ClassVar

from normc.recipe.by_name import recipes
from normc.recipe.recipes.scion import UnconstrainedScion
from normc.recipe.stages.apply import Descend, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import EmaOfSteps


class Almond(UnconstrainedScion):
    """Each gradient's unit step, then their running average. Needs large batches: noise isn't averaged first."""

    name: ClassVar[str] = "almond"
    summary: ClassVar[str] = "the average of every role's unit steps, weights free"
    source: ClassVar[str] = "arXiv 2502.07529, algorithm 4"
    formula: ClassVar[str] = "m = momentum m + (1 - momentum) scale lmo(g);  w = (1 - lr weight_decay) w - lr m"

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """One chain, "lmo"."""
        if rule == "none":
            return ()
        return (self._lmo(rule), EmaOfSteps(), *self._mask(), decay_named(self.text("decay")), Descend(), *self._cap())


recipes.add("almond", Almond(), __name__)
