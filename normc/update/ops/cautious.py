"""Update ops that mask what a step and the gradient, or the weights, disagree about.

As in `arithmetic`, their source is copied into every generated module: torch alone, and each other.
"""

from __future__ import annotations

import math

from torch import Tensor

from normc.update.ops.arithmetic import rowwise


def cautious(d: Tensor, g: Tensor) -> Tensor:
    """The entries of d that have the sign of g's, times n / (their number + 1); else zero. Shape and dtype of d.

    n is the number of entries of each stacked tensor [N, ...] (arXiv 2411.16085, algorithm 1).
    """
    agree = (d * g > 0).to(d.dtype)
    number = agree.reshape(d.shape[0], math.prod(d.shape[1:])).sum(1).reshape(d.shape[:1] + (1,) * (d.dim() - 1))
    return d * agree * (math.prod(d.shape[1:]) / (number + 1.0))


def cautious_each(d: list[Tensor], g: list[Tensor]) -> list[Tensor]:
    """The entries of d that have the sign of g's, times n / (their number + 1), as new tensors."""
    agree = [(x * y > 0).to(x.dtype) for x, y in zip(d, g, strict=True)]
    return [x * mask * (x.numel() / (mask.sum() + 1.0)) for x, mask in zip(d, agree, strict=True)]


def cautious_decay(
    w: Tensor, d: Tensor, lr: float, weight_decay: float, ratio: float | tuple[float, ...] = 1.0
) -> Tensor:
    """Decoupled weight decay of the entries that the step d makes smaller too. Shape and dtype of w."""
    return w * (1.0 - (w * d > 0).to(w.dtype) * (rowwise(w, ratio) * (lr * weight_decay)))


def cautious_decay_each(
    w: list[Tensor], d: list[Tensor], lr: float, weight_decay: float, ratio: float | list[float] = 1.0
) -> list[Tensor]:
    """Weight decay of the entries that the step d makes smaller too, in place."""
    if weight_decay != 0.0:
        numbers = [ratio] * len(w) if isinstance(ratio, float) else ratio
        for x, y, number in zip(w, d, numbers, strict=True):
            x.mul_(1.0 - (x * y > 0).to(x.dtype) * (number * lr * weight_decay))
    return w
