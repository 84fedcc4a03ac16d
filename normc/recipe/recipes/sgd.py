"""SGD with momentum: equal to torch.optim.SGD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from normc.errors import NormcError
from normc.recipe.by_name import recipes
from normc.recipe.recipe import EntryByEntry, Option, Values
from normc.recipe.stages.apply import Descend
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import HeavyBall, Penalty
from normc.recipe.stages.size import Radius


class Sgd(EntryByEntry):
    """The running sum of gradients, with the weights' decay in each (L2), and torch's Nesterov and dampening.

    `plain` has no momentum and keeps no state.
    """

    name: ClassVar[str] = "sgd"
    summary: ClassVar[str] = "the gradient, or a running sum of gradients"
    source: ClassVar[str] = "torch.optim.SGD"
    formula: ClassVar[str] = "g = g + weight_decay w;  m = momentum m + (1 - dampening) g;  w = w - lr m"
    known: ClassVar[Mapping[str, Option]] = {"nesterov": False, "dampening": 0.0, "plain": False}
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 0.0},
    )

    lr: ClassVar[float | None] = 1e-3  # torch's

    def chain(self) -> tuple[Stage, ...]:
        """Decay, sum, step."""
        nesterov, dampening = bool(self.option("nesterov")), self.number("dampening")
        if (nesterov and dampening) or (self.option("plain") and (nesterov or dampening)):
            raise NormcError(
                "of nesterov, dampening and plain, sgd can have one",
                "torch's Nesterov has no dampening, and neither goes without momentum",
            )
        moment = () if self.option("plain") else (HeavyBall(nesterov, dampening),)
        return (Penalty(), *moment, Radius(), Descend())


recipes.add("sgd", Sgd(), __name__)
