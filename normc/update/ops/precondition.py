"""Update ops of preconditioners: running averages of squares, of entries or over rows, columns or matrices, and what
divides by their roots (Adam, Adafactor, Adalayer).

Averages of squares are [N, *parameter] with the `view` (), else [N, B, out or 1, in or 1] of the matrices that the view
sees (see `kronecker`). A `share` [N] is what a new square counts in its average; list forms have it as numbers. Counts
are [N]; in the `_each` forms 0-d tensors on the CPU, read together. As in `arithmetic`, their source is copied into
every generated module: torch alone, and each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normc.update.ops.arithmetic import rowwise
from normc.update.ops.kronecker import put, see


def numbers(x: Tensor, like: Tensor) -> Tensor:
    """One number a stacked tensor [N], in the dtype of `like` [N, ...] and a shape that it can be multiplied with."""
    return x.to(like).reshape(x.shape + (1,) * (like.dim() - x.dim()))


def debiased(m: Tensor, step: Tensor, momentum: float) -> Tensor:
    """A running average without the bias of its start at zero: m / (1 - momentum^t). Shape and dtype of m."""
    return m / (1.0 - torch.pow(momentum, numbers(step, m)))


def debiased_each(m: list[Tensor], step: list[Tensor], momentum: float) -> list[Tensor]:
    """`debiased`, as new tensors."""
    return list(torch._foreach_div(m, [1.0 - momentum**t for t in torch.stack(step).tolist()]))


def even_share(step: Tensor, beta2: float) -> Tensor:
    """Always 1 - beta2."""
    return torch.ones_like(step, dtype=torch.float64) * (1.0 - beta2)


def even_share_each(step: list[Tensor], beta2: float) -> list[float]:
    """`even_share`."""
    return [1.0 - beta2] * len(step)


def warm_share(step: Tensor, beta2: float) -> Tensor:
    """(1 - beta2)^((t - 1) / t): the first square whole, and later ones less and less (2405.14813)."""
    times = step.double()
    return torch.pow(1.0 - beta2, (times - 1.0) / times)


def warm_share_each(step: list[Tensor], beta2: float) -> list[float]:
    """`warm_share`."""
    return [(1.0 - beta2) ** ((t - 1.0) / t) for t in torch.stack(step).tolist()]


def fading_share(step: Tensor, power: float) -> Tensor:
    """t^power, for a power below 0 (Adafactor, 1804.04235)."""
    return step.double() ** power


def fading_share_each(step: list[Tensor], power: float) -> list[float]:
    """`fading_share`."""
    return [t**power for t in torch.stack(step).tolist()]


def settling_share(step: Tensor, beta2: float, until: int) -> Tensor:
    """1 / (t + 1) up to step `until`, then 1 - beta2."""
    times = step.double()
    return torch.where(times <= until, 1.0 / (times + 1.0), 1.0 - beta2)


def settling_share_each(step: list[Tensor], beta2: float, until: int) -> list[float]:
    """`settling_share`."""
    return [1.0 / (t + 1.0) if t <= until else 1.0 - beta2 for t in torch.stack(step).tolist()]


def mean_square(
    v: Tensor, g: Tensor, share: Tensor, dims: tuple[int, ...] = (), view: tuple[tuple[int, ...], ...] = ()
) -> Tensor:
    """The running average v <- (1 - share) v + share mean(g^2), the mean along `dims` of matrices. Shape of v."""
    x = (see(g, view) if view else g).square()
    x = x.mean(dims, keepdim=True) if dims else x
    return v.lerp(x.reshape(v.shape), numbers(share, v))


def mean_square_each(
    v: list[Tensor],
    g: list[Tensor],
    share: list[float],
    dims: tuple[int, ...] = (),
    view: tuple[tuple[int, ...], ...] = (),
) -> list[Tensor]:
    """`mean_square`, in place."""
    for average, grad, own in zip(v, g, share, strict=True):
        x = see(grad.unsqueeze(0), view) if view else grad
        if dims:
            length = torch.linalg.vector_norm(x, dim=dims, keepdim=True)
            x = length.square_().div_(x.numel() // length.numel())
        else:
            x = x.square()
        average.lerp_(x.reshape(average.shape), own)
    return v


def rank_one(r: Tensor, c: Tensor, floor: float) -> Tensor:
    """Averages of rows r [..., out, 1] and columns c [..., 1, in] as of entries: r c / mean(r) [..., out, in]."""
    return r / r.mean(-2, keepdim=True).clamp_min(floor) * c


def rank_one_each(r: list[Tensor], c: list[Tensor], floor: float) -> list[Tensor]:
    """`rank_one`, as new tensors."""
    return [rank_one(rows, columns, floor) for rows, columns in zip(r, c, strict=True)]


def opened(x: Tensor, v: Tensor, view: tuple[tuple[int, ...], ...]) -> Tensor:
    """A stack [N, *parameter] as what v can be multiplied with: [N, B, out, in], or as it is without a view."""
    if not view:
        return x
    seen = see(x, view)
    return seen.reshape(v.shape[:2] + seen.shape[1:])


def closed(x: Tensor, own: Tensor, view: tuple[tuple[int, ...], ...]) -> Tensor:
    """The stack x with `own` in place of what `opened` sees of it."""
    return put(x, own.reshape(own.shape[0] * own.shape[1], own.shape[2], own.shape[3]), view) if view else own


def divided(
    m: Tensor,
    v: Tensor,
    step: Tensor,
    momentum: float,
    beta2: float,
    eps: float,
    floor: float,
    ratio: float | tuple[float, ...] = 1.0,
    view: tuple[tuple[int, ...], ...] = (),
) -> Tensor:
    """m / (max(sqrt(v), floor) + ratio eps), of averages that have lost their bias first. Shape and dtype of m."""
    size = (v / (1.0 - torch.pow(beta2, numbers(step, v)))).sqrt().clamp_min(floor) + rowwise(v, ratio) * eps
    return closed(m, opened(m, v, view) / (1.0 - torch.pow(momentum, numbers(step, v))) / size, view)


def divided_each(
    m: list[Tensor],
    v: list[Tensor],
    step: list[Tensor],
    momentum: float,
    beta2: float,
    eps: float,
    floor: float,
    ratio: float | list[float] = 1.0,
    view: tuple[tuple[int, ...], ...] = (),
) -> list[Tensor]:
    """`divided`, as new tensors."""
    times = torch.stack(step).tolist()
    size = list(torch._foreach_sqrt(v))
    if beta2:
        torch._foreach_div_(size, [(1.0 - beta2**t) ** 0.5 for t in times])
    torch._foreach_clamp_min_(size, floor)
    if eps and isinstance(ratio, float):
        torch._foreach_add_(size, eps * ratio)
    elif eps and not isinstance(ratio, float):
        torch._foreach_add_(size, [eps * number for number in ratio])
    if momentum:
        torch._foreach_mul_(size, [1.0 - momentum**t for t in times])
    if not view:
        return list(torch._foreach_div(m, size))
    whole = [average.unsqueeze(0) for average in m]
    sizes = [own.unsqueeze(0) for own in size]
    return [closed(x, opened(x, own, view) / own, view)[0] for x, own in zip(whole, sizes, strict=True)]


def arctangent(
    m: Tensor,
    v: Tensor,
    step: Tensor,
    momentum: float,
    beta2: float,
    a: float,
    b: float,
    view: tuple[tuple[int, ...], ...] = (),
) -> Tensor:
    """a atan2(m, b sqrt(v)), of averages that have lost their bias first; zero for both zero. Shape and dtype of m."""
    size = (v / (1.0 - torch.pow(beta2, numbers(step, v)))).sqrt() * b
    x = opened(m, v, view) / (1.0 - torch.pow(momentum, numbers(step, v)))
    return closed(m, a * torch.atan2(x, size.expand(x.shape)), view)


def arctangent_each(
    m: list[Tensor],
    v: list[Tensor],
    step: list[Tensor],
    momentum: float,
    beta2: float,
    a: float,
    b: float,
    view: tuple[tuple[int, ...], ...] = (),
) -> list[Tensor]:
    """`arctangent`, as new tensors: the angle is that of m and b sqrt(v) times what both biases leave."""
    times = torch.stack(step).tolist()
    size = list(torch._foreach_sqrt(v))
    torch._foreach_mul_(size, [b * (1.0 - momentum**t) / (1.0 - beta2**t) ** 0.5 for t in times])
    found = []
    for average, own in zip(m, size, strict=True):
        x = opened(average.unsqueeze(0), own.unsqueeze(0), view)
        angle = torch.atan2(x, own.unsqueeze(0).expand(x.shape)).mul_(a)
        found.append(closed(average.unsqueeze(0), angle, view)[0])
    return found
