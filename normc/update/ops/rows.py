"""Update ops that see a matrix as rows of lengths and directions, w = r v / ||v|| row by row: weight normalisation in
the update (Muown, 2605.10797).

Matrices are [N * B, out, in]. Lengths r [N, B, out] have the sign that w has beside v, s are the lengths of v; both are
zero for a row that has been zero ever since, which has no direction. As in `arithmetic`, their source is copied into
every generated module: torch alone, and each other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_lengths(w: Tensor, like: Tensor) -> Tensor:
    """The 2-norm of every row. Shape of `like` [N, B, out]."""
    lengths: Tensor = torch.linalg.vector_norm(w, dim=-1)
    return lengths.reshape(like.shape)


def known_lengths(r: Tensor, w: Tensor) -> Tensor:
    """r where it is known (not 0), else the lengths of w. Shape of r."""
    return torch.where(r != 0, r, row_lengths(w, r))


def quotients(x: Tensor, r: Tensor) -> Tensor:
    """Every row of x over its number in r; zero where that is zero. Shape of x."""
    r = r.reshape(x.shape[0], x.shape[1], 1)
    return torch.where(r != 0, x / torch.where(r != 0, r, 1.0), 0.0)


def length_slopes(g: Tensor, w: Tensor, r: Tensor) -> Tensor:
    """The gradient of lengths: that of w along each row's direction. Shape of r."""
    return (g * quotients(w, r)).sum(-1).reshape(r.shape)


def across(g: Tensor, w: Tensor, r: Tensor, s: Tensor) -> Tensor:
    """The gradient of v: r / s times that of w across each row's direction; without one, that of w. Shape of g."""
    unit, lengths = quotients(w, r), r.reshape(w.shape[0], w.shape[1], 1)
    rest = g - unit * (g * unit).sum(-1, keepdim=True)
    return torch.where(lengths != 0, quotients(rest * lengths, s), g)


def moved(w: Tensor, d: Tensor, r: Tensor, s: Tensor, lr: float) -> Tensor:
    """v - lr d for v = s w / r; -lr d for a row without direction. Shape and dtype of w."""
    return quotients(w, r) * s.reshape(w.shape[0], w.shape[1], 1) - lr * d


def moved_lengths(r: Tensor, d: Tensor, s: Tensor, lr: float) -> Tensor:
    """r - lr d; for a row without direction the length s that its first step gives it. Shape of r."""
    return torch.where(r != 0, r - lr * d, s)


def composed(w: Tensor, v: Tensor, r: Tensor, s: Tensor, lr: float, weight_decay: float) -> Tensor:
    """r v / s - lr weight_decay w, for v of the lengths s. Shape and dtype of w."""
    return quotients(v * r.reshape(w.shape[0], w.shape[1], 1), s) - w * (lr * weight_decay)


def signed_lengths(r: Tensor, w: Tensor) -> Tensor:
    """The lengths of w, by the signs of r. Shape of r."""
    return torch.copysign(row_lengths(w, r), r)
