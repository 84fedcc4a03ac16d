"""How a step reaches the weights, and what bounds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from normc.stages.build import Builder, Space, Stage
from normc.update import arithmetic, power


class Applied(Stage):
    """What changes the weights; the step itself passes through."""

    takes: ClassVar[tuple[Space, ...]] = ("primal",)
    kind: ClassVar[str] = "apply"


@dataclass(frozen=True, slots=True)
class Decay(Applied):
    """Decoupled weight decay by the group's lr times `weight_decay`; by the row's scale as well if `scaled`."""

    scaled: bool = False

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- (1 - lr weight_decay) w."""
        ratio = {"ratio": build.row.scale.value} if self.scaled and build.row.scale.value != 1.0 else {}
        lr, weight_decay = build.number("lr"), build.number("weight_decay")
        build.weight = build.call("w", arithmetic.decay, build.weight, lr, weight_decay, **ratio)
        return direction


@dataclass(frozen=True, slots=True)
class Shrink(Applied):
    """The weights' share of a convex step. Bounds the norm of the weights by the radius."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- (1 - lr) w."""
        build.weight = build.call("w", arithmetic.shrink, build.weight, build.number("lr"))
        return direction


@dataclass(frozen=True, slots=True)
class Descend(Applied):
    """The step itself."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- w - lr d."""
        build.weight = build.call("w", arithmetic.descend, build.weight, direction, build.number("lr"))
        return direction


@dataclass(frozen=True, slots=True)
class Regularize(Applied):
    """Weight decay in proportion to the row's share of the step: a cap of 1 / weight_decay on its norm."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- (1 - lr weight_decay target) w."""
        lr, weight_decay = build.number("lr"), build.number("weight_decay")
        build.weight = build.call("w", arithmetic.decay, build.weight, lr, weight_decay, ratio=float(build.row.target))
        return direction


@dataclass(frozen=True, slots=True)
class Project(Applied):
    """Every vector that an index looks up is set to RMS 1; other weights stay as they are."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- w / rms(w), vector by vector."""
        if build.row.role not in ("embedding", "position"):
            return direction
        dims = build.row.out_axes
        length = math.sqrt(math.prod(build.row.shape[dim] for dim in dims))
        build.weight = build.call("w", power.project, build.weight, dims=dims, length=length)
        return direction
