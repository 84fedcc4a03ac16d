"""Adam: with the decay in the gradient (arXiv 1412.6980), decoupled (1711.05101), or without eps (2407.05872)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from normc.recipe.by_name import recipes
from normc.recipe.recipe import EntryByEntry, Option, Values
from normc.recipe.stages.apply import Cautious, Descend, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import Penalty
from normc.recipe.stages.precondition import Arctangent, Division, Plus, Precondition, UnbiasedEma
from normc.recipe.stages.size import Radius


class Adam(EntryByEntry):
    """Equal to torch.optim.Adam: weight decay is part of the gradient, and of its squares."""

    name: ClassVar[str] = "adam"
    summary: ClassVar[str] = "the average gradient over the root of the average square, decay in the gradient"
    source: ClassVar[str] = "torch.optim.Adam; arXiv 1412.6980"
    formula: ClassVar[str] = (
        "g = g + weight_decay w;  m = momentum m + (1 - momentum) g;  v = beta2 v + (1 - beta2) g^2;  "
        "w = w - lr unbiased(m) / (sqrt(unbiased(v)) + eps)"
    )
    known: ClassVar[Mapping[str, Option]] = {}
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.999, "eps": 1e-8},
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.999, "eps": 1e-8},
    )

    lr: ClassVar[float | None] = 1e-3  # torch's

    def chain(self) -> tuple[Stage, ...]:
        """Decay, both averages, step."""
        return (Penalty(), UnbiasedEma(), Precondition(), Radius(), Descend())


class AdamW(Adam):
    """Equal to torch.optim.AdamW.

    decay      decoupled, independent (of lr), or cautious: only where the step makes weights smaller too.
    cautious   no step where the direction isn't down the present gradient.
    """

    name: ClassVar[str] = "adamw"
    summary: ClassVar[str] = "the average gradient over the root of the average square"
    source: ClassVar[str] = "torch.optim.AdamW; arXiv 1711.05101"
    formula: ClassVar[str] = (
        "m = momentum m + (1 - momentum) g;  v = beta2 v + (1 - beta2) g^2;  "
        "w = (1 - lr weight_decay) w - lr unbiased(m) / (sqrt(unbiased(v)) + eps)"
    )
    known: ClassVar[Mapping[str, Option]] = {"decay": "decoupled", "cautious": False}
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.01, "beta2": 0.999, "eps": 1e-8},
        {"momentum": 0.9, "weight_decay": 0.01, "beta2": 0.999, "eps": 1e-8},
    )

    lr: ClassVar[float | None] = 1e-3  # torch's

    def chain(self) -> tuple[Stage, ...]:
        """Both averages, decay, step."""
        mask = (Cautious(),) if self.option("cautious") else ()
        direction = (UnbiasedEma(), Precondition(by=self.division()), Radius())
        return (*direction, *mask, decay_named(self.text("decay")), Descend())

    def division(self) -> Division:
        """What the average gradient is divided by."""
        return Plus()


class AdamAtan2(AdamW):
    """AdamW by the angle between both averages: nothing has to be added to a gradient, however small it is.

    a, b   the step is a atan2(m, b sqrt(v)). With 4 / pi and 1 it is 1 where m is sqrt(v), and without averages
           (momentum and beta2 0) it is the sign. A large b with a = b comes near to AdamW.
    """

    name: ClassVar[str] = "adam-atan2"
    summary: ClassVar[str] = "the angle between the average gradient and the root of the average square: no eps"
    source: ClassVar[str] = "arXiv 2407.05872, appendix"
    formula: ClassVar[str] = (
        "m = momentum m + (1 - momentum) g;  v = beta2 v + (1 - beta2) g^2;  "
        "w = (1 - lr weight_decay) w - lr a atan2(unbiased(m), b sqrt(unbiased(v)))"
    )
    known: ClassVar[Mapping[str, Option]] = {"a": 4 / math.pi, "b": 1.0, "decay": "decoupled", "cautious": False}
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.999},
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.999},
    )

    def division(self) -> Division:
        """The angle."""
        return Arctangent(self.number("a"), self.number("b"))


for recipe in (Adam(), AdamW(), AdamAtan2()):
    recipes.add(recipe.name, recipe, __name__)
