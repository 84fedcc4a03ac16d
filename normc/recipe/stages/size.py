"""Scales: how large a step is, for directions that no norm has sized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from normc.recipe.stages.build import Builder, Space, Stage, scaled
from normc.recipe.stages.clip import viewed
from normc.recipe.stages.precondition import this_step
from normc.recipe.stages.statistics import wholes
from normc.update.ops import relative


class Size(Stage):
    """What sets a step's size, and by that makes a step of a gradient."""

    gives: ClassVar[Space | None] = "primal"
    kind: ClassVar[str] = "scale"


@dataclass(frozen=True, slots=True)
class Radius(Size):
    """The direction times the row's scale: for rules that are no norm's."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- scale d."""
        return scaled(build, direction, build.row.scale.value)


@dataclass(frozen=True, slots=True)
class RelativeToWeights(Size):
    """A step in units of the weights' root mean square, or of `floor` where that is less.

    Each block's matrix by itself, or if not `apart` the tensor.
    """

    floor: float = 1e-3
    apart: bool = True

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- max(floor, rms(w)) d."""
        for view in wholes(build.row, self.apart):
            own = viewed(view)
            direction = build.call("d", relative.relative, direction, build.weight, floor=self.floor, **own)
        return direction


@dataclass(frozen=True, slots=True)
class LrCap(Size):
    """The group's lr is at most 1 / sqrt(t) for steps; weight decay keeps it as it is."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- min(lr, 1 / sqrt(t)) / lr d."""
        return build.call("d", relative.lr_capped, direction, this_step(build), build.number("lr"))
