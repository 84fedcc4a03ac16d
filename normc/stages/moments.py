"""Moments: gradients in, gradients out; and the average of steps that comes after a norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from normc.stages.build import Builder, Space, Stage
from normc.update import arithmetic


class Moment(Stage):
    """What accumulates gradients."""

    takes: ClassVar[tuple[Space, ...]] = ("dual",)
    gives: ClassVar[Space | None] = "dual"
    kind: ClassVar[str] = "moment"


@dataclass(frozen=True, slots=True)
class Ema(Moment):
    """The running average of gradients; the group's `momentum` is the share that stays."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m <- momentum m + (1 - momentum) g; the direction is m."""
        state, momentum = build.state("momentum_buffer"), build.number("momentum")
        return build.keep("momentum_buffer", build.call("m", arithmetic.ema, state, direction, momentum))


@dataclass(frozen=True, slots=True)
class Nesterov(Moment):
    """The running average of gradients, looked at one step ahead."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m <- momentum m + (1 - momentum) g; the direction is momentum m + (1 - momentum) g."""
        average = Ema().emit(build, direction)
        return build.call("d", arithmetic.nesterov, direction, average, build.number("momentum"))


@dataclass(frozen=True, slots=True)
class WarmEma(Moment):
    """The running average of gradients that takes the first whole: its share falls from 1 to 1 - `momentum`."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m <- m + (1 - momentum)^((t - 1) / t) (g - m); the direction is m."""
        step, state, momentum = build.state("step", "count"), build.state("momentum_buffer"), build.number("momentum")
        step = build.keep("step", build.call("t", arithmetic.count, step))
        return build.keep("momentum_buffer", build.call("m", arithmetic.warm_ema, state, direction, step, momentum))
