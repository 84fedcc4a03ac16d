"""Update ops that see a matrix as rows of lengths and directions, w = r v / ||v|| row by row: weight normalisation in
the update (Muown, 2605.10797).

Matrices are [N * B, out, in]. Lengths r [N, B, out] have the sign that w has beside v, s are the lengths of v; both are
zero for a row that has been zero ever since, which has no direction. As in `arithmetic`, their source is copied into
every generated module: torch alone, and each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normc.update.ops.arithmetic import rowwise


def row_lengths(w: Tensor, like: Tensor) -> Tensor:
    """The 2-norm of every row. Shape of `like` [N, B, out]."""
    lengths: Tensor = torch.linalg.vector_norm(w, dim=-1)
    return lengths.reshape(like.shape)


def known_lengths(r: Tensor, w: Tensor) -> Tensor:
    """r where it is known (not 0), else the lengths of w. Shape of r."""
    return torch.where(r != 0, r, row_lengths(w, r))


def ratio(r: Tensor, s: Tensor, like: Tensor) -> Tensor:
    """r / s, zero where s is zero, as [N * B, out, 1] beside matrices `like`."""
    return torch.where(s != 0, r / torch.where(s != 0, s, 1.0), 0.0).reshape(like.shape[0], like.shape[1], 1)


def length_slopes(g: Tensor, w: Tensor, r: Tensor) -> Tensor:
    """The gradient of lengths: that of w along each row's direction w / r; zero without one. Shape of r."""
    return (g * w * ratio(torch.ones_like(r), r, w)).sum(-1).reshape(r.shape)


def across(g: Tensor, w: Tensor, r: Tensor, s: Tensor) -> Tensor:
    """The gradient of v: r / s times that of w across each row's direction; without one, that of w. Shape of g."""
    unit = w * ratio(torch.ones_like(r), r, w)
    rest = (g - unit * (g * unit).sum(-1, keepdim=True)) * ratio(r, s, w)
    return torch.where(r.reshape(w.shape[0], w.shape[1], 1) != 0, rest, g)


def moved(w: Tensor, d: Tensor, r: Tensor, s: Tensor, lr: float) -> Tensor:
    """v - lr d for v = s / r w; -lr d for a row without direction. Shape and dtype of w."""
    return w * ratio(s, r, w) - d * lr


def moved_lengths(r: Tensor, d: Tensor, s: Tensor, lr: float) -> Tensor:
    """r - lr d; for a row without direction the length s that its first step gives it. Shape of r."""
    return torch.where(r != 0, r - lr * d, s)


def composed(
    w: Tensor, v: Tensor, r: Tensor, s: Tensor, lr: float, weight_decay: float, factor: float | tuple[float, ...] = 1.0
) -> Tensor:
    """r / s v - factor lr weight_decay w, for v of the lengths s; one factor, or one a parameter. Shape of w."""
    share = rowwise(r, factor)
    if isinstance(share, Tensor):
        share = share.expand_as(r).reshape(w.shape[0], w.shape[1], 1)
    return v * ratio(r, s, w) - w * (share * (lr * weight_decay))


def signed_lengths(r: Tensor, w: Tensor) -> Tensor:
    """The lengths of w, by the signs of r. Shape of r."""
    return torch.copysign(row_lengths(w, r), r)
