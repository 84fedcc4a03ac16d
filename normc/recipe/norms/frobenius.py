"""The Frobenius norm: a plain normalised step; never larger than the spectral norm's bound."""

from __future__ import annotations

import math

import sympy
from torch import Tensor

from normc.plans.geometry import Norm, norms
from normc.plans.row import D_IN, D_OUT, KERNEL
from normc.update.ops.matrices import length, unit


def frobenius(d: Tensor) -> Tensor:
    """Each stacked tensor [N, ...] over its 2-norm. Shape and dtype of d."""
    return unit(d.reshape(d.shape[0], math.prod(d.shape[1:])), (-1,)).reshape(d.shape)


def measure(x: Tensor) -> Tensor:
    """The 2-norm of each stacked tensor; the norm is its own dual."""
    return length(x.reshape(x.shape[0], math.prod(x.shape[1:])), (-1,))


norms.add(
    "frobenius",
    Norm(
        name="frobenius",
        operator="RMS to RMS",
        shape="whole",
        lmo=frobenius,
        measure=measure,
        dual=measure,
        scale=sympy.sqrt(D_OUT / D_IN) / KERNEL,
    ),
    __name__,
)
