"""One run to a target loss: what the user gives for it, and running it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from normc.errors import NormcError
from normc.tools.cbs.average import averaged


@dataclass(frozen=True, slots=True)
class Trial:
    """A fresh model with its way to train and to be measured.

    step    one step of the optimizer on a batch, at a learning rate that stays as it is (after a warmup, if need be)
    loss    of a model like `model`, which holds averaged weights and is in eval mode; called without gradients, always
            on the same data
    """

    model: nn.Module
    step: Callable[[], object]
    loss: Callable[[nn.Module], float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`steps` after which the average of `decay` reached the target, with its loss; or None, with the lowest loss."""

    steps: int | None
    decay: float
    loss: float


def checks(limit: int, every: int, resolution: float) -> Iterator[int]:
    """The steps after which to measure: `every` apart at first, then a share `resolution` of what has gone by."""
    step = every
    while step < limit:
        yield step
        step = max(step + every, math.ceil(step * (1 + resolution)))
    yield limit


def run(
    trial: Trial, target: float, decays: Sequence[float], limit: int, every: int = 1, resolution: float = 0.0
) -> Outcome:
    """Step until the loss of some average is at most `target`, or `limit` steps are done, or no loss is finite."""
    averages = {decay: averaged(trial.model, decay) for decay in decays}
    best = Outcome(None, decays[0], math.inf)
    done = 0
    for check in checks(limit, every, resolution):
        for _ in range(done, check):
            trial.step()
            for average in averages.values():
                average.update_parameters(trial.model)
        done = check
        losses = {decay: _loss(trial, average.module) for decay, average in averages.items()}
        decay = min(losses, key=lambda key: losses[key] if math.isfinite(losses[key]) else math.inf)
        if not math.isfinite(losses[decay]):
            break
        if losses[decay] <= target:
            return Outcome(done, decay, losses[decay])
        if losses[decay] < best.loss:
            best = Outcome(None, decay, losses[decay])
    return best


@torch.no_grad()
def _loss(trial: Trial, model: nn.Module) -> float:
    value: object = trial.loss(model)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, int | float):
        raise NormcError(f"a trial's loss returned {type(value).__name__}", "let it return one number")
    return float(value)
