"""The root mean square of all entries: for vectors that are added to or multiply activations (Scion, table 2)."""

from __future__ import annotations

import math

import sympy
import torch
from torch import Tensor

from normc.plans.geometry import Norm, norms
from normc.update.ops.matrices import length, unit


def rms(d: Tensor) -> Tensor:
    """Each stacked tensor [N, ...] over its root mean square. Shape and dtype of d."""
    size = math.prod(d.shape[1:])
    wide = d.reshape(d.shape[0], size).to(torch.promote_types(d.dtype, torch.float32))
    return unit(wide, (-1,)).mul(math.sqrt(size)).to(d.dtype).reshape(d.shape)


def measure(x: Tensor) -> Tensor:
    """The root mean square of each stacked tensor."""
    size = math.prod(x.shape[1:])
    return length(x.reshape(x.shape[0], size), (-1,)) / math.sqrt(max(size, 1))


def dual(x: Tensor) -> Tensor:
    """The 2-norm of each stacked tensor, times the root of its number of entries."""
    size = math.prod(x.shape[1:])
    return length(x.reshape(x.shape[0], size), (-1,)) * math.sqrt(size)


norms.add(
    "rms",
    Norm(name="rms", operator="RMS", shape="whole", lmo=rms, measure=measure, dual=dual, scale=sympy.Integer(1)),
    __name__,
)
