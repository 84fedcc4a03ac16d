"""Moments: gradients in, gradients out; and the average of steps that comes after a norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from normc.recipe.stages.build import Builder, Space, Stage
from normc.update.ops import arithmetic


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
        state, momentum = build.average("momentum_buffer"), build.number("momentum")
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
        step, state, momentum = build.state("step", "count"), build.average("momentum_buffer"), build.number("momentum")
        step = build.keep("step", build.call("t", arithmetic.count, step))
        return build.keep("momentum_buffer", build.call("m", arithmetic.warm_ema, state, direction, step, momentum))


@dataclass(frozen=True, slots=True)
class HeavyBall(Moment):
    """The running sum of gradients, as torch.optim.SGD has it: with its Nesterov, and its dampening.

    As in torch, the first gradient is taken whole, whatever the dampening.
    """

    nesterov: bool = False
    dampening: float = 0.0

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m <- momentum m + (1 - dampening) g; the direction is m, or g + momentum m."""
        state, momentum = build.average("momentum_buffer"), build.number("momentum")
        if self.dampening:
            step = build.keep("step", build.call("t", arithmetic.count, build.state("step", "count")))
            damping = {"dampening": self.dampening}
            total = build.call("m", arithmetic.damped_ball, state, direction, step, momentum, **damping)
        else:
            total = build.call("m", arithmetic.heavy_ball, state, direction, momentum)
        build.keep("momentum_buffer", total)
        return build.call("d", arithmetic.nesterov_sum, direction, total, momentum) if self.nesterov else total


@dataclass(frozen=True, slots=True)
class LionMoment(Moment):
    """Two averages from one buffer: a quick one to step by (`momentum`), a slow one to keep (`beta2`)."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """The direction is momentum m + (1 - momentum) g; then m <- beta2 m + (1 - beta2) g."""
        state = build.average("momentum_buffer")
        step = build.call("d", arithmetic.ahead, state, direction, build.number("momentum"))
        build.keep("momentum_buffer", build.call("m", arithmetic.ema, state, direction, build.number("beta2")))
        return step


@dataclass(frozen=True, slots=True)
class InGradient(Moment):
    """The gradient itself, never zeroed, so that it is the sum of all before; `Fade` has to end the chain.

    What comes after must not care how large it is: it sums to 1 / (1 - momentum) times the average.
    """

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """The direction is what backward has added up."""
        return build.state("gradient", "grad")


@dataclass(frozen=True, slots=True)
class Fade(Stage):
    """What makes the gradient of `InGradient` forget; the last of its chain."""

    takes: ClassVar[tuple[Space, ...]] = ("primal",)
    kind: ClassVar[str] = "moment"

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """g <- momentum g, in place."""
        build.keep(
            "gradient", build.call("k", arithmetic.fade, build.state("gradient", "grad"), build.number("momentum"))
        )
        return direction


@dataclass(frozen=True, slots=True)
class EmaOfSteps(Stage):
    """The running average of steps, after the norm."""

    takes: ClassVar[tuple[Space, ...]] = ("primal",)
    kind: ClassVar[str] = "moment"

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m <- momentum m + (1 - momentum) d; the direction is m."""
        return Ema().emit(build, direction)


@dataclass(frozen=True, slots=True)
class Penalty(Moment):
    """Weight decay as part of the gradient (L2), before any moment."""

    kind: ClassVar[str] = "decay"

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """g + weight_decay w, which is the gradient to all stages after it."""
        if not build.row.decay:
            return direction
        weight_decay = build.number("weight_decay")
        build.grad = build.call("g", arithmetic.penalised, direction, build.weight, weight_decay, **build.decay())
        return build.grad
