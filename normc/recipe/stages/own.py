"""Numbers of a row's own that are not its scale."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from normc.recipe.stages.apply import Applied
from normc.recipe.stages.build import Builder
from normc.update.ops import arithmetic


@dataclass(frozen=True, slots=True)
class OwnDecay(Applied):
    """Decoupled weight decay by the group's lr times `weight_decay`, times a number of the row's own."""

    ratio: float = 1.0

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- (1 - ratio lr weight_decay) w."""
        if not build.row.decay:
            return direction
        lr, weight_decay = build.number("lr"), build.number("weight_decay")
        build.weight = build.call("w", arithmetic.decay, build.weight, lr, weight_decay, **build.decay(self.ratio))
        return direction
