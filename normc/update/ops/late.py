"""Update ops entry by entry that leave out a parameter's first step, as SOAP's authors do, and those of AdaGrad.

As in `arithmetic`, their source is copied into every generated module: torch alone, and each other. Counts are [N]; in
the `_each` forms 0-d tensors on the CPU, read together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normc.update.ops.arithmetic import rowwise


def initial(step: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` [N, ...] for the counts [N] that are 1, else `old`."""
    return torch.where((step == 1).reshape(step.shape + (1,) * (old.dim() - 1)).to(old.device), new, old)


def later(g: Tensor, step: Tensor) -> Tensor:
    """The gradient, but zero at the first step. Shape and dtype of g."""
    return initial(step, torch.zeros_like(g), g)


def later_each(g: list[Tensor], step: list[Tensor]) -> list[Tensor]:
    """`later`: the same tensors, or new ones of zeros."""
    times = torch.stack(step).tolist()
    return [torch.zeros_like(grad) if time == 1 else grad for grad, time in zip(g, times, strict=True)]


def quotient(m: Tensor, v: Tensor, eps: float) -> Tensor:
    """m / (sqrt(v) + eps); zero where both are zero. Shape and dtype of m."""
    return m / (v.sqrt() + eps).clamp_min(1e-37)


def quotient_each(m: list[Tensor], v: list[Tensor], eps: float) -> list[Tensor]:
    """m / (sqrt(v) + eps), as new tensors."""
    size = list(torch._foreach_sqrt(v))
    torch._foreach_add_(size, eps)
    torch._foreach_clamp_min_(size, 1e-37)
    return list(torch._foreach_div(m, size))


def unbiased(d: Tensor, step: Tensor, momentum: float, beta2: float) -> Tensor:
    """d sqrt(1 - beta2^k) / (1 - momentum^k) for the k-th step after the first; zero at the first. Shape of d."""
    times = (step - 1.0).reshape(step.shape + (1,) * (d.dim() - step.dim())).to(d)
    factor = (1.0 - torch.pow(beta2, times)).sqrt() / (1.0 - torch.pow(momentum, times))
    return torch.where(times > 0, d * factor, 0.0)


def unbiased_each(d: list[Tensor], step: list[Tensor], momentum: float, beta2: float) -> list[Tensor]:
    """`unbiased`, as new tensors. Steps are 0-d tensors on the CPU, read together."""
    times = [time - 1.0 for time in torch.stack(step).tolist()]
    return list(torch._foreach_mul(d, [(1.0 - beta2**k) ** 0.5 / (1.0 - momentum**k) if k else 0.0 for k in times]))


def late_decay(
    w: Tensor, step: Tensor, lr: float, weight_decay: float, ratio: float | tuple[float, ...] = 1.0
) -> Tensor:
    """Decoupled weight decay w <- (1 - ratio lr weight_decay) w, but at the first step. Shape and dtype of w."""
    return initial(step, w, w * (1.0 - rowwise(w, ratio) * (lr * weight_decay)))


def late_decay_each(
    w: list[Tensor], step: list[Tensor], lr: float, weight_decay: float, ratio: float | list[float] = 1.0
) -> list[Tensor]:
    """`late_decay`, in place."""
    if weight_decay != 0.0:
        numbers = [ratio] * len(w) if isinstance(ratio, float) else ratio
        times = torch.stack(step).tolist()
        shares = [1.0 - number * lr * weight_decay for number in numbers]
        torch._foreach_mul_(w, [1.0 if time == 1 else share for time, share in zip(times, shares, strict=True)])
    return w


def adagrad(g: Tensor, v: Tensor, eps: float) -> Tensor:
    """g / sqrt(v + eps); zero where both are zero. Shape and dtype of g."""
    return g / (v + eps).sqrt().clamp_min(1e-37)


def adagrad_each(g: list[Tensor], v: list[Tensor], eps: float) -> list[Tensor]:
    """g / sqrt(v + eps), as new tensors."""
    size = list(torch._foreach_add(v, eps))
    torch._foreach_sqrt_(size)
    torch._foreach_clamp_min_(size, 1e-37)
    return list(torch._foreach_div(g, size))


def squares(v: Tensor, g: Tensor, beta: float) -> Tensor:
    """beta v + (1 - beta) g^2, or for a beta of 1 the sum v + g^2. Shape and dtype of v."""
    return v + g * g if beta == 1.0 else v * beta + g * g * (1.0 - beta)


def squares_each(v: list[Tensor], g: list[Tensor], beta: float) -> list[Tensor]:
    """`squares`, in place."""
    if beta != 1.0:
        torch._foreach_mul_(v, beta)
    torch._foreach_addcmul_(v, g, g, value=1.0 if beta == 1.0 else 1.0 - beta)
    return v
