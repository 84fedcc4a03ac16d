"""ScionLight: Scion without a momentum buffer, as gradients are never zeroed (arXiv 2502.07529, appendix E.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Values
from normc.recipe.recipes.scion import Scion
from normc.recipe.stages.apply import Decay, Descend, Shrink
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import Fade, InGradient


class ScionLight(Scion):
    """Backward adds to gradients that are never zeroed; after each step they are multiplied by momentum.

    The same steps as Scion's, to round-off: an LMO doesn't see that the sum is 1 / (1 - momentum) times the average.
    One copy of weights and one of gradients, in their own dtype, is all that is kept. A step works on 2^21 entries at a
    time, or on one parameter, if that is larger and not of the norm "sign": it holds some wide copies of no more. The
    optimizer's zero_grad() leaves gradients alone; model.zero_grad() must not be called, nor gradients scaled or
    clipped between backward and step: divide the losses of an accumulated batch instead.

    constrained   False lets the weights free, as uscion does.
    """

    name: ClassVar[str] = "scion-light"
    summary: ClassVar[str] = "scion without a momentum buffer: gradients are never zeroed"
    source: ClassVar[str] = "arXiv 2502.07529, appendix E.2"
    formula: ClassVar[str] = "g = momentum g + gradient, by backward;  w = (1 - lr) w - lr scale lmo(g)"
    known: ClassVar[Mapping[str, Option]] = {**Scion.known, "constrained": True}
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 0.0},
    )

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """One chain, "lmo"."""
        decay = Shrink() if self.option("constrained") else Decay()
        return () if rule == "none" else (InGradient(), self._lmo(rule), decay, Descend(), Fade())


recipes.add("scion-light", ScionLight(), __name__)
