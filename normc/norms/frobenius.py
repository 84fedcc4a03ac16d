"""The Frobenius norm: a plain normalised step; never larger than the spectral norm's bound."""

from __future__ import annotations

import math

import sympy
import torch
from torch import Tensor

from normc.plans.geometry import Norm, norms
from normc.plans.row import D_IN, D_OUT, KERNEL
from normc.update.matrices import unit


def frobenius(d: Tensor) -> Tensor:
    """Each stacked tensor [N, ...] over its 2-norm. Shape and dtype of d."""
    return unit(d.reshape(d.shape[0], math.prod(d.shape[1:])), (-1,)).reshape(d.shape)


def length(x: Tensor) -> Tensor:
    """The 2-norm of each stacked tensor; the norm is its own dual."""
    result: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=-1)
    return result


norms.add(
    "frobenius",
    Norm(
        name="frobenius",
        operator="RMS to RMS",
        shape="whole",
        lmo=frobenius,
        measure=length,
        dual=length,
        scale=sympy.sqrt(D_OUT / D_IN) / KERNEL,
    ),
    __name__,
)
