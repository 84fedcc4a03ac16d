"""Preconditioners: a gradient over the size that its entries, rows or all of it have had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from normc.stages.build import Builder, Space, Stage
from normc.update import arithmetic


class Preconditioner(Stage):
    """Still a gradient: a scale or a norm after it makes it a step."""

    takes: ClassVar[tuple[Space, ...]] = ("dual",)
    gives: ClassVar[Space | None] = "dual"
    kind: ClassVar[str] = "precondition"


@dataclass(frozen=True, slots=True)
class AdamDirection(Preconditioner):
    """Adam's direction: the average gradient over the root of the average square, both without their start's bias."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """The group's `momentum` is Adam's first beta."""
        step, momentum, beta2 = build.state("step", "count"), build.number("momentum"), build.number("beta2")
        first, second = build.state("exp_avg"), build.state("exp_avg_sq")
        step = build.keep("step", build.call("t", arithmetic.count, step))
        first = build.keep("exp_avg", build.call("m", arithmetic.ema, first, direction, momentum))
        second = build.keep("exp_avg_sq", build.call("v", arithmetic.second_moment, second, direction, beta2))
        eps = build.number("eps")
        return build.call("d", arithmetic.adam_direction, first, second, step, momentum, beta2, eps)
