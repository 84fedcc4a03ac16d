"""The sign of an average: Signum (arXiv 1802.04434) and Lion (arXiv 2302.06675), which is Signum with two averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from normc.recipe.by_name import recipes
from normc.recipe.recipe import EntryByEntry, Option, Values
from normc.recipe.stages.apply import Cautious, Descend, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import Ema, LionMoment, Moment
from normc.recipe.stages.norm import Lmo


class Signum(EntryByEntry):
    """The sign of the running average, with decoupled weight decay.

    decay      decoupled, independent (of lr), or cautious: only where the step makes weights smaller too.
    cautious   no step where the sign isn't that of the present gradient.
    """

    name: ClassVar[str] = "signum"
    summary: ClassVar[str] = "the sign of the average gradient"
    source: ClassVar[str] = "arXiv 1802.04434, with decoupled weight decay"
    formula: ClassVar[str] = "m = momentum m + (1 - momentum) g;  w = (1 - lr weight_decay) w - lr sign(m)"
    reason: ClassVar[str] = "every entry by itself: 1 to max"
    known: ClassVar[Mapping[str, Option]] = {"decay": "decoupled", "cautious": False}
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 0.0},
    )

    def chain(self) -> tuple[Stage, ...]:
        """An average, its sign, decay, step."""
        mask = (Cautious(),) if self.option("cautious") else ()
        return (self.moment(), Lmo(), *mask, decay_named(self.text("decay")), Descend())

    def moment(self) -> Moment:
        """The average that the step is the sign of."""
        return Ema()


class Lion(Signum):
    """Signum that steps by a quick average and keeps a slow one. Equal to Signum if `momentum` is `beta2`."""

    name: ClassVar[str] = "lion"
    summary: ClassVar[str] = "the sign of a quick average, of a slow one that is kept"
    source: ClassVar[str] = "arXiv 2302.06675"
    formula: ClassVar[str] = (
        "w = (1 - lr weight_decay) w - lr sign(momentum m + (1 - momentum) g);  m = beta2 m + (1 - beta2) g"
    )
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "beta2": 0.99, "weight_decay": 0.0},
        {"momentum": 0.9, "beta2": 0.99, "weight_decay": 0.0},
    )

    def moment(self) -> Moment:
        """Both averages in one buffer."""
        return LionMoment()


for recipe in (Signum(), Lion()):
    recipes.add(recipe.name, recipe, __name__)
