"""Update ops that work entry by entry. `<op>_each` is an op's multi-tensor form.

A plain op takes a stack [N, *shape] and returns a new tensor. Its `_each` form takes lists with one tensor a parameter
and, where the first argument is a state or a weight, updates that list in place and returns it. Their source is copied
into every generated module, so they use torch alone and name nothing of this package but each other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ema(m: Tensor, g: Tensor, momentum: float) -> Tensor:
    """The running average m <- momentum m + (1 - momentum) g. Shape and dtype of m."""
    return m.lerp(g, 1.0 - momentum)


def ema_each(m: list[Tensor], g: list[Tensor], momentum: float) -> list[Tensor]:
    """m <- momentum m + (1 - momentum) g, in place."""
    torch._foreach_lerp_(m, g, 1.0 - momentum)
    return m


def warm_ema(m: Tensor, g: Tensor, step: Tensor, momentum: float) -> Tensor:
    """The running average m <- m + (1 - momentum)^((t - 1) / t) (g - m); step is t [N]. Shape and dtype of m.

    The first gradient is taken whole, and later ones less and less (Modula's package, 2405.14813).
    """
    times = step.reshape(step.shape + (1,) * (m.dim() - step.dim())).to(m)
    return m.lerp(g, torch.pow(1.0 - momentum, (times - 1.0) / times))


def warm_ema_each(m: list[Tensor], g: list[Tensor], step: list[Tensor], momentum: float) -> list[Tensor]:
    """m <- m + (1 - momentum)^((t - 1) / t) (g - m), in place. Steps are 0-d tensors on the CPU, read together."""
    times = torch.stack(step).tolist()
    torch._foreach_lerp_(m, g, [(1.0 - momentum) ** ((t - 1.0) / t) for t in times])
    return m


def heavy_ball(m: Tensor, g: Tensor, momentum: float) -> Tensor:
    """The running sum m <- momentum m + g. Shape and dtype of m."""
    return m * momentum + g


def heavy_ball_each(m: list[Tensor], g: list[Tensor], momentum: float) -> list[Tensor]:
    """m <- momentum m + g, in place."""
    torch._foreach_mul_(m, momentum)
    torch._foreach_add_(m, g)
    return m


def damped_ball(m: Tensor, g: Tensor, step: Tensor, momentum: float, dampening: float) -> Tensor:
    """The running sum m <- momentum m + (1 - dampening) g, which takes the first g whole; step is t [N]."""
    times = step.reshape(step.shape + (1,) * (m.dim() - step.dim())).to(m)
    return m * momentum + g * torch.where(times > 1.0, 1.0 - dampening, 1.0)


def damped_ball_each(
    m: list[Tensor], g: list[Tensor], step: list[Tensor], momentum: float, dampening: float
) -> list[Tensor]:
    """m <- momentum m + (1 - dampening) g, the first g whole, in place. Steps are 0-d tensors on the CPU."""
    times = torch.stack(step).tolist()
    torch._foreach_mul_(m, momentum)
    torch._foreach_add_(m, torch._foreach_mul(g, [1.0 if t <= 1.0 else 1.0 - dampening for t in times]))
    return m


def ahead(m: Tensor, g: Tensor, momentum: float) -> Tensor:
    """What the running average will be with g: momentum m + (1 - momentum) g, for an m that is kept. Shape of m."""
    return m.lerp(g, 1.0 - momentum)


def ahead_each(m: list[Tensor], g: list[Tensor], momentum: float) -> list[Tensor]:
    """momentum m + (1 - momentum) g, as new tensors."""
    return list(torch._foreach_lerp(m, g, 1.0 - momentum))


def nesterov_sum(g: Tensor, m: Tensor, momentum: float) -> Tensor:
    """Look one step ahead of a running sum: g + momentum m, for an m that has seen g. Shape and dtype of g."""
    return g + m * momentum


def nesterov_sum_each(g: list[Tensor], m: list[Tensor], momentum: float) -> list[Tensor]:
    """g + momentum m, as new tensors."""
    return list(torch._foreach_add(g, torch._foreach_mul(m, momentum)))


def fade(g: Tensor, momentum: float) -> Tensor:
    """What stays of a gradient that the next ones are added to: momentum g. Shape and dtype of g."""
    return g * momentum


def fade_each(g: list[Tensor], momentum: float) -> list[Tensor]:
    """momentum g, in place."""
    torch._foreach_mul_(g, momentum)
    return g


def penalised(g: Tensor, w: Tensor, weight_decay: float, ratio: float | tuple[float, ...] = 1.0) -> Tensor:
    """The gradient with that of ratio weight_decay/2 ||w||^2: g + ratio weight_decay w. Shape and dtype of g."""
    return g + w * (rowwise(w, ratio) * weight_decay)


def penalised_each(
    g: list[Tensor], w: list[Tensor], weight_decay: float, ratio: float | list[float] = 1.0
) -> list[Tensor]:
    """g + ratio weight_decay w, as new tensors; g itself where there is no decay."""
    if weight_decay == 0.0:
        return g
    if isinstance(ratio, float):
        return list(torch._foreach_add(g, w, alpha=ratio * weight_decay))
    return list(torch._foreach_add(g, torch._foreach_mul(w, [number * weight_decay for number in ratio])))


def nesterov(g: Tensor, m: Tensor, momentum: float) -> Tensor:
    """Look one step ahead: (1 - momentum) g + momentum m, for an m that has seen g. Shape and dtype of g."""
    return g.lerp(m, momentum)


def nesterov_each(g: list[Tensor], m: list[Tensor], momentum: float) -> list[Tensor]:
    """(1 - momentum) g + momentum m, as new tensors."""
    return list(torch._foreach_lerp(g, m, momentum))


def second_moment(v: Tensor, g: Tensor, beta2: float) -> Tensor:
    """The running average of squares v <- beta2 v + (1 - beta2) g^2. Shape and dtype of v."""
    return v * beta2 + g * g * (1.0 - beta2)


def second_moment_each(v: list[Tensor], g: list[Tensor], beta2: float) -> list[Tensor]:
    """v <- beta2 v + (1 - beta2) g^2, in place."""
    torch._foreach_mul_(v, beta2)
    torch._foreach_addcmul_(v, g, g, value=1.0 - beta2)
    return v


def count(step: Tensor) -> Tensor:
    """One step more."""
    return step + 1.0


def count_each(step: list[Tensor]) -> list[Tensor]:
    """One step more, in place."""
    torch._foreach_add_(step, 1.0)
    return step


def adam_direction(m: Tensor, v: Tensor, step: Tensor, momentum: float, beta2: float, eps: float) -> Tensor:
    """Adam's direction m/(1 - momentum^t) / (sqrt(v/(1 - beta2^t)) + eps). Shape and dtype of m; step is [N]."""
    step = step.reshape(step.shape + (1,) * (m.dim() - step.dim())).to(m)
    first = 1.0 - torch.pow(momentum, step)
    second = 1.0 - torch.pow(beta2, step)
    return (m / first) / (v.sqrt() / second.sqrt() + eps)


def adam_direction_each(
    m: list[Tensor], v: list[Tensor], step: list[Tensor], momentum: float, beta2: float, eps: float
) -> list[Tensor]:
    """Adam's direction, as new tensors. Steps are 0-d tensors on the CPU, read together: no device waits."""
    times = torch.stack(step).tolist()
    direction = list(torch._foreach_sqrt(v))
    torch._foreach_div_(direction, [(1.0 - beta2**t) ** 0.5 for t in times])
    torch._foreach_add_(direction, eps)
    torch._foreach_reciprocal_(direction)
    torch._foreach_mul_(direction, m)
    torch._foreach_div_(direction, [1.0 - momentum**t for t in times])
    return direction


def rowwise(x: Tensor, number: float | tuple[float, ...]) -> float | Tensor:
    """One number, or one for each tensor of the stack x [N, ...], in a shape that x can be multiplied with."""
    if not isinstance(number, tuple):
        return number
    return torch.tensor(number, dtype=x.dtype, device=x.device).reshape(x.shape[:1] + (1,) * (x.dim() - 1))


def scale(d: Tensor, factor: float | tuple[float, ...]) -> Tensor:
    """d times a number, or one a tensor. Shape and dtype of d."""
    return d * rowwise(d, factor)


def decay(w: Tensor, lr: float, weight_decay: float, ratio: float | tuple[float, ...] = 1.0) -> Tensor:
    """Decoupled weight decay w <- (1 - ratio lr weight_decay) w. Shape and dtype of w."""
    return w * (1.0 - rowwise(w, ratio) * (lr * weight_decay))


def decay_each(w: list[Tensor], lr: float, weight_decay: float, ratio: float | list[float] = 1.0) -> list[Tensor]:
    """w <- (1 - ratio lr weight_decay) w, in place."""
    if weight_decay == 0.0:
        return w
    if isinstance(ratio, float):
        torch._foreach_mul_(w, 1.0 - ratio * lr * weight_decay)
    else:
        torch._foreach_mul_(w, [1.0 - number * lr * weight_decay for number in ratio])
    return w


def shrink(w: Tensor, lr: float, ratio: float | tuple[float, ...] = 1.0) -> Tensor:
    """The convex step's own share w <- (1 - ratio lr) w. Shape and dtype of w."""
    return w * (1.0 - rowwise(w, ratio) * lr)


def shrink_each(w: list[Tensor], lr: float, ratio: float | list[float] = 1.0) -> list[Tensor]:
    """w <- (1 - ratio lr) w, in place."""
    if isinstance(ratio, float):
        torch._foreach_mul_(w, 1.0 - ratio * lr)
    else:
        torch._foreach_mul_(w, [1.0 - number * lr for number in ratio])
    return w


def constrained(
    w: Tensor,
    d: Tensor,
    lr: float,
    weight_decay: float,
    ratio: float | tuple[float, ...] = 1.0,
    radius: float | tuple[float, ...] = 1.0,
) -> Tensor:
    """Decay and step at once: w <- (1 - ratio lr weight_decay) w - lr radius d. Shape and dtype of w."""
    return w * (1.0 - rowwise(w, ratio) * (lr * weight_decay)) - d * (rowwise(d, radius) * lr)


def constrained_each(
    w: list[Tensor],
    d: list[Tensor],
    lr: float,
    weight_decay: float,
    ratio: float | list[float] = 1.0,
    radius: float | list[float] = 1.0,
) -> list[Tensor]:
    """w <- (1 - ratio lr weight_decay) w - lr radius d, in place; no pass for the decay where there is none."""
    return descend_each(decay_each(w, lr, weight_decay, ratio), d, lr, radius)


def descend(w: Tensor, d: Tensor, lr: float, radius: float | tuple[float, ...] = 1.0) -> Tensor:
    """A step against d: w <- w - lr radius d. Shape and dtype of w."""
    return w - d * (rowwise(d, radius) * lr)


def descend_each(w: list[Tensor], d: list[Tensor], lr: float, radius: float | list[float] = 1.0) -> list[Tensor]:
    """w <- w - lr radius d, in place."""
    if isinstance(radius, float):
        torch._foreach_add_(w, d, alpha=-lr * radius)
    else:
        add_multiples(w, d, [-lr * number for number in radius])
    return w


def add_multiples(w: list[Tensor], d: list[Tensor], factors: list[float]) -> None:
    """w <- w + factor d, in place. On a CPU, whose lists are loops anyway, d is read once and nothing is kept."""
    if any(x.device.type != "cpu" for x in w):
        torch._foreach_add_(w, torch._foreach_mul(d, factors))
        return
    for x, y, factor in zip(w, d, factors, strict=True):
        x.add_(y, alpha=factor)
