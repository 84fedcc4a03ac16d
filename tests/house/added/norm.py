"""A norm, of the entries' fourth powers. What a user writes is this file, with `norms.add` at its end."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normc.plans.geometry import Norm, norms
from normc.plans.row import D_IN, KERNEL


def four(d: Tensor) -> Tensor:
    """The step of 4-norm one that goes furthest along d: cube roots of its entries, scaled. Zero for zero."""
    root = d.sign() * d.abs().pow(1 / 3)
    size = root.abs().pow(4).reshape(root.shape[0], -1).sum(-1).pow(0.25)
    return root / torch.clamp(size, min=1e-12).reshape(-1, *[1] * (d.dim() - 1))


def measure(x: Tensor) -> Tensor:
    """The 4-norm of each stacked tensor [N, ...]."""
    return x.abs().reshape(x.shape[0], math.prod(x.shape[1:])).pow(4).sum(-1).pow(0.25)


def dual(x: Tensor) -> Tensor:
    """The 4/3-norm of each stacked tensor [N, ...]."""
    return x.abs().reshape(x.shape[0], math.prod(x.shape[1:])).pow(4 / 3).sum(-1).pow(0.75)


norms.add("four", Norm("four", "none", "entries", four, measure, dual, 1 / (D_IN * KERNEL)), __name__)
