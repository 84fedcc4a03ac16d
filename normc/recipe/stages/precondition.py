"""Preconditioners: a gradient over the size that its entries, rows or all of it have had.

`Precondition` is made of three parts: of what squares it keeps averages (a statistic), how these forget (a memory), and
how it divides by their roots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import fx

from normc.plans.geometry import norms
from normc.recipe.stages.build import Builder, Space, Stage
from normc.update.ops import arithmetic, precondition

# The least mean of squares to divide by; and the least root, that of the smallest square in float32: a gradient whose
# square is none is not larger.
TINY = 1e-37
LEAST = 3e-23
View = tuple[tuple[int, ...], ...]


class Preconditioner(Stage):
    """Still a gradient: a scale or a norm after it makes it a step."""

    takes: ClassVar[tuple[Space, ...]] = ("dual",)
    gives: ClassVar[Space | None] = "dual"
    kind: ClassVar[str] = "precondition"


def this_step(build: Builder) -> fx.Node:
    """The count of steps, this one included; however many stages ask, it grows by one."""
    step = build.state("step", "count")
    return step if step.target is arithmetic.count else build.keep("step", build.call("t", arithmetic.count, step))


@dataclass(frozen=True, slots=True)
class UnbiasedEma(Preconditioner):
    """The running average of gradients without the bias of its start, Adam's first moment."""

    kind: ClassVar[str] = "moment"

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m <- momentum m + (1 - momentum) g; the direction is m / (1 - momentum^t)."""
        step, state, momentum = this_step(build), build.average("exp_avg"), build.number("momentum")
        average = build.keep("exp_avg", build.call("m", arithmetic.ema, state, direction, momentum))
        return build.call("h", precondition.debiased, average, step, momentum)


@dataclass(frozen=True, slots=True)
class Signs(Preconditioner):
    """A direction's signs: every entry counts alike."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- sign(d)."""
        return build.call("d", norms["sign"].lmo, direction)


class Sized(NamedTuple):
    """Average squares, and of which matrices of the parameter they are: all entries for ()."""

    squares: fx.Node
    view: View = ()


class Memory(ABC):
    """How average squares forget."""

    @abstractmethod
    def share(self, build: Builder) -> fx.Node:
        """What a new square counts."""

    def bias(self, build: Builder) -> fx.Node | float:
        """The beta whose bias is to be taken out; 0 for none."""
        return 0.0

    def update(self, build: Builder, state: fx.Node, gradient: fx.Node, **seen: Any) -> fx.Node:
        """v + share (g^2 - v), the squares as `mean_square` sees them."""
        return build.call("v", precondition.mean_square, state, gradient, self.share(build), **seen)


@dataclass(frozen=True, slots=True)
class Even(Memory):
    """By the group's `beta2`, their start's bias taken out, as Adam has it."""

    def share(self, build: Builder) -> fx.Node:
        """1 - beta2."""
        return build.call("k", precondition.even_share, this_step(build), build.number("beta2"))

    def bias(self, build: Builder) -> fx.Node:
        """The group's `beta2`."""
        return build.number("beta2")

    def update(self, build: Builder, state: fx.Node, gradient: fx.Node, **seen: Any) -> fx.Node:
        """beta2 v + (1 - beta2) g^2."""
        if seen:
            return Memory.update(self, build, state, gradient, **seen)
        return build.call("v", arithmetic.second_moment, state, gradient, build.number("beta2"))


@dataclass(frozen=True, slots=True)
class Warm(Memory):
    """The first square is taken whole, later ones less and less, down to 1 - beta2: Modula's."""

    def share(self, build: Builder) -> fx.Node:
        """(1 - beta2)^((t - 1) / t)."""
        return build.call("k", precondition.warm_share, this_step(build), build.number("beta2"))


@dataclass(frozen=True, slots=True)
class Fading(Memory):
    """A new square counts t^power, the first one whole: Adafactor's."""

    power: float = -0.8

    def share(self, build: Builder) -> fx.Node:
        """t^power."""
        return build.call("k", precondition.fading_share, this_step(build), power=self.power)


@dataclass(frozen=True, slots=True)
class Settling(Memory):
    """A plain average up to step `until`, which then stays as it is; or goes on by `beta2` if `adapts`.

    As in its authors' code, a square counts 1 / (t + 1), as if there had been a gradient of zero before the first.
    """

    until: int = 1000
    adapts: bool = False

    def share(self, build: Builder) -> fx.Node:
        """1 / (t + 1), then 1 - beta2 or nothing."""
        beta2 = build.number("beta2") if self.adapts else 1.0
        return build.call("k", precondition.settling_share, this_step(build), beta2, until=self.until)


class Statistic(ABC):
    """What averages of squares are kept."""

    @abstractmethod
    def emit(self, build: Builder, gradient: fx.Node, memory: Memory) -> list[Sized]:
        """Update them with a gradient; together their views see every entry once."""


@dataclass(frozen=True, slots=True)
class Entries(Statistic):
    """One average an entry."""

    def emit(self, build: Builder, gradient: fx.Node, memory: Memory) -> list[Sized]:
        """v of g^2."""
        return [Sized(build.keep("exp_avg_sq", memory.update(build, build.state("exp_avg_sq"), gradient)))]


class Average(NamedTuple):
    """What is to be divided: a direction, or the average that it is without the bias of `momentum`."""

    value: fx.Node
    momentum: fx.Node | float


class Division(ABC):
    """How a direction is divided by the roots of average squares."""

    @abstractmethod
    def emit(self, build: Builder, average: Average, by: Sized, beta2: fx.Node | float) -> fx.Node:
        """The quotient of averages without the bias of their betas."""


@dataclass(frozen=True, slots=True)
class Plus(Division):
    """By the root plus the group's `eps`; times `ratio`, a number of the row's own, if that isn't None."""

    ratio: float | None = None

    def emit(self, build: Builder, average: Average, by: Sized, beta2: fx.Node | float) -> fx.Node:
        """d / (sqrt(v) + ratio eps)."""
        args = (average.value, by.squares, this_step(build), average.momentum, beta2, build.number("eps"))
        if self.ratio is None and not by.view and isinstance(average.momentum, fx.Node) and isinstance(beta2, fx.Node):
            return build.call("d", arithmetic.adam_direction, *args)
        return build.call("d", precondition.divided, *args, floor=LEAST, **_own(by, ratio=self.ratio))


@dataclass(frozen=True, slots=True)
class Floor(Division):
    """By the root, but at least by a number: `LEAST` divides zero by zero to zero. None for the dtype's precision."""

    value: float | None = LEAST

    def emit(self, build: Builder, average: Average, by: Sized, beta2: fx.Node | float) -> fx.Node:
        """d / max(sqrt(v), floor)."""
        args = (average.value, by.squares, this_step(build), average.momentum, beta2, 0.0)
        return build.call("d", precondition.divided, *args, floor=floor_of(build, self.value), **_own(by))


@dataclass(frozen=True, slots=True)
class Arctangent(Division):
    """No eps: the angle of direction and root, which doesn't change if both are multiplied by a number."""

    a: float = 1.0
    b: float = 1.0

    def emit(self, build: Builder, average: Average, by: Sized, beta2: fx.Node | float) -> fx.Node:
        """a atan2(d, b sqrt(v))."""
        args = (average.value, by.squares, this_step(build), average.momentum, beta2)
        return build.call("d", precondition.arctangent, *args, a=self.a, b=self.b, **_own(by))


def floor_of(build: Builder, value: float | None) -> float:
    """A floor, or the precision of the parameter's dtype for None."""
    return value if value is not None else torch.finfo(getattr(torch, build.row.dtype)).eps


def _own(by: Sized, ratio: float | None = None) -> dict[str, Any]:
    return ({"view": by.view} if by.view else {}) | ({} if ratio is None else {"ratio": ratio})


@dataclass(frozen=True, slots=True)
class Precondition(Preconditioner):
    """The direction over the root of average squares of the gradient."""

    of: Statistic = Entries()
    memory: Memory = Even()
    by: Division = Plus()

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- d / (sqrt(v) + eps); v <- beta2 v + (1 - beta2) g^2."""
        return self.divide(build, direction, build.grad)

    def divide(self, build: Builder, direction: fx.Node, gradient: fx.Node) -> fx.Node:
        """The same, for squares of another gradient."""
        average, beta2 = _average(build, direction), self.memory.bias(build)
        for sized in self.of.emit(build, gradient, self.memory):
            direction = self.by.emit(build, average, sized, beta2)
            average = Average(direction, average.momentum)
        return direction


def _average(build: Builder, direction: fx.Node) -> Average:
    """What `UnbiasedEma` has just made is taken apart: one op divides by both biases."""
    if direction.target is not precondition.debiased or direction.users:
        return Average(direction, 0.0)
    value, _, momentum = direction.args
    build.graph.erase_node(direction)
    assert isinstance(value, fx.Node)
    return Average(value, momentum)  # type: ignore[arg-type]  # fx's Argument


@dataclass(frozen=True, slots=True)
class AdamDirection(Preconditioner):
    """Adam's direction: `UnbiasedEma`, then `Precondition`."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m / (1 - momentum^t) / (sqrt(v / (1 - beta2^t)) + eps)."""
        return Precondition().divide(build, UnbiasedEma().emit(build, direction), direction)
