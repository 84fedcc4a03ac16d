"""Update ops that keep a direction and set its norm: one step of power iteration a training step, as Modula's package
does (2405.14813), on states that stay between steps.

As in `arithmetic`, their source is copied into every generated module: torch alone, and each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normc.update.ops.matrices import unit


def level(x: Tensor) -> Tensor:
    """Each stacked tensor [N, ...] over its largest absolute entry; zero stays zero. Shape and dtype of x."""
    if x.numel() == 0:
        return x
    peak = x.reshape(x.shape[0], x[0].numel()).abs().amax(1).reshape(x.shape[:1] + (1,) * (x.dim() - 1))
    return x / torch.where(peak > 0, peak, 1.0)


def start(u: Tensor) -> Tensor:
    """Vectors [..., n] with those that are zero set to fixed, uncorrelated entries. Shape and dtype of u."""
    index = torch.arange(u.shape[-1], device=u.device, dtype=torch.float64)
    entries = torch.sin(2 * torch.pi * (index * index * 0.6180339887498949 + index * 0.4142135623730951 + 0.2).frac())
    return torch.where((u != 0).any(-1, keepdim=True), u, entries.to(u.dtype))


def power_step(u: Tensor, x: Tensor) -> Tensor:
    """x^T v for v = x u over its length: its length is at most the spectral norm of x, and nearly that in time.

    x is [N * B, out, in], u is [N, B, in] with zeros where nothing is known yet. Shape and dtype of u.
    """
    right = unit(start(u), (-1,)).reshape(x.shape[0], x.shape[-1], 1)
    left = unit(x @ right, (-2,))
    return (x.mT @ left).reshape(u.shape)


def rescale(x: Tensor, u: Tensor) -> Tensor:
    """Matrices [N * B, out, in] over the length of their u [N, B, in], or where that is zero over their own 2-norm."""
    if x.numel() == 0:
        return x
    length = torch.linalg.vector_norm(u, dim=-1).reshape(x.shape[0], 1, 1)
    length = torch.where(length > 0, length, torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True))
    return x / torch.where(length > 0, length, 1.0)


def project(w: Tensor, dims: tuple[int, ...], length: float) -> Tensor:
    """Slices of each stacked tensor along its axes `dims` set to a 2-norm; zero stays zero. Shape and dtype of w."""
    return unit(w, tuple(1 + dim for dim in dims)) * length


def project_each(w: list[Tensor], dims: tuple[int, ...], length: float) -> list[Tensor]:
    """The slices along `dims` set to a 2-norm, in place."""
    for x in w:
        x.copy_(unit(x, dims).mul(length))
    return w
