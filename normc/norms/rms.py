"""The root mean square of all entries: for vectors that are added to or multiply activations (Scion, table 2)."""

from __future__ import annotations

import math

import sympy
import torch
from torch import Tensor

from normc.plans.geometry import Norm, norms
from normc.update.matrices import unit


def rms(d: Tensor) -> Tensor:
    """Each stacked tensor [N, ...] over its root mean square. Shape and dtype of d."""
    size = math.prod(d.shape[1:])
    return unit(d.reshape(d.shape[0], size), (-1,)).mul(size**0.5).reshape(d.shape)


def measure(x: Tensor) -> Tensor:
    """The root mean square of each stacked tensor."""
    return x.flatten(1).square().mean(-1).sqrt()


def dual(x: Tensor) -> Tensor:
    """The 2-norm of each stacked tensor, times the root of its number of entries."""
    result: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=-1) * math.sqrt(math.prod(x.shape[1:]))
    return result


norms.add(
    "rms",
    Norm(name="rms", operator="RMS", shape="whole", lmo=rms, measure=measure, dual=dual, scale=sympy.Integer(1)),
    __name__,
)
