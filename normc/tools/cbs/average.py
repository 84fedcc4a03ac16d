"""Exponential averages of a model's weights, without the weight that a plain one gives to the first of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from normc.arguments import instance, number


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` in eval mode; `.update_parameters(model)` after every step averages it in.

    After steps 1 to T its weights are the sum over t of decay^(T - t) w_t, over the sum of decay^(T - t): Adam's bias
    correction, in place of counting w_1 as if it had been there forever. Buffers are those of the last step; where they
    hold statistics of activations, `torch.optim.swa_utils.update_bn` in `loss` makes them anew.

    NormcError for a decay outside of [0, 1).
    """
    instance("model", model, nn.Module, "pass a torch.nn.Module")
    fix = "give one of at least 0 and below 1, such as 0.99"
    number("an average's decay", decay, fix, lambda value: 0 <= value < 1)
    copy = AveragedModel(model, multi_avg_fn=cast("Callable[..., None]", _towards(decay)))
    copy.requires_grad_(False)
    return copy.eval()


def _towards(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        share = (1 - decay) / (1 - decay ** (int(count) + 1))
        if averages[0].is_floating_point() or averages[0].is_complex():
            torch._foreach_lerp_(averages, weights, share)
        else:
            torch._foreach_copy_(averages, weights)

    return update
