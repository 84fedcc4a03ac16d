"""The learning rate over a run: up, constant, down to zero. An ordinary scheduler of torch, for any optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsIndex

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from normc.arguments import number, whole
from normc.errors import NormcError


@dataclass(frozen=True)
class Trapezoid:
    """The factor of lr at each step: from 1 / rise to 1 in `rise` steps, then 1, then in `fall` steps to `floor`."""

    steps: int
    rise: int
    fall: int
    floor: float

    def __call__(self, step: int) -> float:
        """Return the factor of the step after `step` steps; `floor`, or 1 without a fall, behind the last."""
        if step < self.rise:
            return (step + 1) / self.rise
        if self.fall == 0:
            return 1.0
        left = min(max(self.steps - step, 0) / self.fall, 1.0)
        return self.floor + (1.0 - self.floor) * left


def schedule(
    opt: Optimizer,
    steps: SupportsIndex,
    *,
    warmup: float = 0.1,
    constant: float | None = None,
    decay: float | None = None,
    floor: float = 0.0,
) -> LambdaLR:
    """Return a scheduler that raises every group's lr linearly, holds it, and lowers it linearly. Step it once a step.

    opt       any optimizer of torch; lr may be a number or a tensor, and differ between groups. One of normc's may
              still wait for its plan.
    steps     how many steps the run has.
    warmup    the share of `steps` in which lr rises; its first step has lr over their number. 0 starts at lr.
    constant  the share in which it is lr itself: none by default, or what `decay` leaves.
    decay     the share in which it falls: by default all that is left; 0 for none.
    floor     what it falls to, as a share of lr; it stays there behind the last step.

    The default, a tenth up and then straight down to zero, is the schedule of all measurements in docs/. The
    scheduler's state_dict holds the shape: a loaded one goes on with the shape that was saved.
    NormcError for what is no optimizer, no number of steps, or shares that aren't from 0 to 1 or don't add up.
    """
    if not isinstance(opt, Optimizer):
        raise NormcError(f"a {type(opt).__name__} can't be scheduled", "give an optimizer; of several, each its own")
    count = whole("steps", steps, 1, "give a whole number of at least 1: batches an epoch, times epochs")
    _share("floor", floor)
    _share("warmup", warmup)
    hold, share = _rest(warmup, constant, decay)
    rise = max(1, round(warmup * count)) if warmup > 0 else 0
    left = count - rise
    fall = left - min(left, round(hold * count)) if decay is None else min(left, round(share * count))
    return LambdaLR(opt, Trapezoid(count, rise, max(fall, 1) if share > 0 else 0, float(floor)))


def _share(name: str, value: Any) -> None:
    """NormcError unless `value` is from 0 to 1."""
    of = "of lr" if name == "floor" else "of the steps: a number of steps over `steps`"
    number(name, value, f"give a share from 0 to 1, {of}", lambda share: 0 <= share <= 1)


def _rest(warmup: float, constant: float | None, decay: float | None) -> tuple[float, float]:
    """Return the shares that are constant and that fall."""
    for name, value in (("constant", constant), ("decay", decay)):
        if value is not None:
            _share(name, value)
    if constant is None:
        constant = 0.0 if decay is None else 1.0 - warmup - decay
    if decay is None:
        decay = 1.0 - warmup - constant
    near = 1e-9
    if constant < -near or decay < -near or not math.isclose(warmup + constant + decay, 1.0, abs_tol=near):
        total = warmup + max(constant, 0.0) + max(decay, 0.0)
        raise NormcError(
            f"warmup, constant and decay take {total:g} of the run", "give shares that add up to 1, or leave one out"
        )
    return max(constant, 0.0), decay if decay > near else 0.0
