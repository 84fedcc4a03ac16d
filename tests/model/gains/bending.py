"""Second derivatives along two directions, and what they are taken of and measured by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Tensors = tuple[Tensor, ...]


def bent(function: Callable[..., Tensor], at: Tensors, one: Tensors, two: Tensors) -> Tensor:
    """The second derivative along two directions. Not of torch's layer_norm, whose nested one is wrong."""

    def first(*x: Tensor) -> Tensor:
        found: Tensor = torch.func.jvp(function, x, one)[1]
        return found

    with sdpa_kernel(SDPBackend.MATH):
        found: Tensor = torch.func.jvp(first, at, two)[1]
    return found


def size(x: Tensor) -> Tensor:
    """Largest RMS over the last axis."""
    return x.square().mean(-1).sqrt().max()


def rms_norm(x: Tensor) -> Tensor:
    """Spelled out."""
    return x / x.square().mean(-1, keepdim=True).sqrt()


def layer_norm(x: Tensor) -> Tensor:
    """Spelled out."""
    return rms_norm(x - x.mean(-1, keepdim=True))
