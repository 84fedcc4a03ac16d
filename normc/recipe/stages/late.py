"""Adam and weight decay that leave out a parameter's first step, as SOAP's authors have them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from normc.recipe.stages.apply import Applied
from normc.recipe.stages.build import Builder
from normc.recipe.stages.precondition import Preconditioner
from normc.update.ops import arithmetic, late, relative


def counted(build: Builder) -> fx.Node:
    """The count of steps, this one included."""
    return build.keep("step", build.call("t", arithmetic.count, build.state("step", "count")))


@dataclass(frozen=True, slots=True)
class LateAdam(Preconditioner):
    """Adam as SOAP's authors have it: the first gradient is not used, eps is added before bias is taken out.

    correct    whether bias is taken out.
    normalize  whether the direction's root mean square is set to one before that.
    """

    correct: bool = True
    normalize: bool = False

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m / (sqrt(v) + eps), unbiased; the group's `momentum` and `beta2` are Adam's betas."""
        step = counted(build)
        direction = self.divided(build, build.call("d", late.later, direction, step))
        return self.sized(build, direction, step)

    def divided(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m / (sqrt(v) + eps)."""
        first, second = build.average("exp_avg"), build.state("exp_avg_sq")
        first = build.call("m", arithmetic.ema, first, direction, build.number("momentum"))
        second = build.call("v", arithmetic.second_moment, second, direction, build.number("beta2"))
        build.keep("exp_avg", first)
        build.keep("exp_avg_sq", second)
        return build.call("d", late.quotient, first, second, build.number("eps"))

    def sized(self, build: Builder, direction: fx.Node, step: fx.Node) -> fx.Node:
        """The direction as long as it is to be."""
        if self.normalize:
            direction = build.call("d", relative.even, direction)
        if not self.correct:
            return direction
        return build.call("d", late.unbiased, direction, step, build.number("momentum"), build.number("beta2"))


@dataclass(frozen=True, slots=True)
class LateDecay(Applied):
    """Decoupled weight decay by the group's lr times `weight_decay`, at every step but the first."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- (1 - lr weight_decay) w; a stage before this one counts steps."""
        assert "step" in build.states(), "no stage counts steps"
        if not build.row.decay:
            return direction
        args = (build.state("step"), build.number("lr"), build.number("weight_decay"))
        build.weight = build.call("w", late.late_decay, build.weight, *args, **build.decay())
        return direction
