"""Update ops that bound the weights: a sphere that they stay on, and a ball of each norm that they are put back into.

A ball's step is its projection in the 2-norm of all entries. As in `arithmetic`, their source is copied into every
generated module: torch alone, and each other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def first_length(r: Tensor, w: Tensor, ball: float) -> Tensor:
    """r [N, B] where it is known (not 0), else the 2-norms of the matrices w [N * B, out, in]. Shape of r.

    A matrix that is zero has no sphere: it gets -`ball`, the radius of a ball to move in.
    """
    length = torch.linalg.vector_norm(w, dim=(-2, -1)).reshape(r.shape)
    return torch.where(r != 0, r, torch.where(length > 0, length, -ball))


def sphere(w: Tensor, d: Tensor, r: Tensor, lr: float) -> Tensor:
    """A step of length lr |r| against the unit d, then back to length r; for r < 0 only from beyond length -r.

    w and d are matrices [N * B, out, in], r is [N, B]. Shape and dtype of w.
    """
    if w.numel() == 0:
        return w
    r = r.reshape(w.shape[0], 1, 1)
    radius = r.abs()
    moved = w - d * (radius * lr)
    length = torch.linalg.vector_norm(moved, dim=(-2, -1), keepdim=True)
    wanted = torch.where(r > 0, radius, torch.minimum(length, radius))
    return moved * (wanted / torch.where(length > 0, length, 1.0))


def clip_logits(w: Tensor, largest: Tensor, threshold: float) -> Tensor:
    """Matrices w [N * B, out, in] times sqrt(min(1, threshold / largest)), for the largest logits [N, B] that their
    heads have made; 0 is for none known. Shape and dtype of w.
    """
    share = (threshold / largest.clamp(min=threshold)).sqrt()
    return w * share.reshape(w.shape[0], 1, 1).to(w.dtype)


def forget(x: Tensor) -> Tensor:
    """Zeros. Shape and dtype of x."""
    return torch.zeros_like(x)


def forget_each(x: list[Tensor]) -> list[Tensor]:
    """Zeros, in place."""
    torch._foreach_zero_(x)
    return x


def cap_entries(w: Tensor, bound: float) -> Tensor:
    """Entries within -bound and bound. Shape and dtype of w."""
    return w.clamp(-bound, bound)


def cap_entries_each(w: list[Tensor], bound: float) -> list[Tensor]:
    """Entries within -bound and bound, in place."""
    torch._foreach_clamp_min_(w, -bound)
    torch._foreach_clamp_max_(w, bound)
    return w


def cap_lengths(w: Tensor, dims: tuple[int, ...], bound: float) -> Tensor:
    """Vectors along `dims` that are longer than `bound` get that 2-norm. Shape and dtype of w."""
    if w.numel() == 0:
        return w
    length = torch.linalg.vector_norm(w, dim=dims, keepdim=True)
    return w * (bound / torch.where(length > bound, length, bound))


def cap_singular(w: Tensor, bound: float) -> Tensor:
    """Singular values of the matrices [B, out, in] above `bound` set to it. Shape and dtype of w.

    By the eigenvectors of the smaller Gram matrix: what is too much is taken off along them, so that a matrix inside
    the ball keeps every bit. A polynomial would err by more than a step can leave the ball by.
    """
    if w.numel() == 0:
        return w
    tall = w.shape[-2] > w.shape[-1]
    x = w.mT if tall else w
    x = x.to(torch.promote_types(w.dtype, torch.float32))
    squares, vectors = torch.linalg.eigh(x @ x.mT)
    excess = 1.0 - bound / squares.clamp(min=bound * bound).sqrt()
    over: Tensor = (vectors * excess.unsqueeze(-2)) @ (vectors.mT @ x)
    return w - (over.mT if tall else over).to(w.dtype)
