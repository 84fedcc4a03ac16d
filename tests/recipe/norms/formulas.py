"""Every registered norm by a formula of its own in float64, and the certificates that its steps have to have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from normc.plans.geometry import norms

Matrix = npt.NDArray[np.float64]

# A norm and its dual of one matrix [out, in]; what is seen as a whole comes as one row.
NORM: dict[str, Callable[[Matrix], float]] = {
    "colnorm": lambda x: max((float(np.sqrt((column**2).sum())) for column in x.T), default=0.0),
    "frobenius": lambda x: float(np.sqrt((x**2).sum())),
    "rms": lambda x: float(np.sqrt((x**2).mean())) if x.size else 0.0,
    "rownorm": lambda x: max((float(np.sqrt((row**2).sum())) for row in x), default=0.0),
    "sign": lambda x: float(np.abs(x).max(initial=0.0)),
    "slices": lambda x: float(singular(x).max(initial=0.0)),
    "spectral": lambda x: float(singular(x).max(initial=0.0)),
}
DUAL: dict[str, Callable[[Matrix], float]] = {
    "colnorm": lambda x: float(np.sqrt((x**2).sum(0)).sum()),
    "frobenius": lambda x: float(np.sqrt((x**2).sum())),
    "rms": lambda x: float(np.sqrt((x**2).sum()) * np.sqrt(x.size)),
    "rownorm": lambda x: float(np.sqrt((x**2).sum(1)).sum()),
    "sign": lambda x: float(np.abs(x).sum()),
    "slices": lambda x: float(singular(x).sum()),
    "spectral": lambda x: float(singular(x).sum()),
}
EVERY = tuple(norms)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# What one rounding of every entry may do to a norm of a small matrix.
NEAR = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
# Powers of two by which entries of [1/16, 16] can be scaled without a bit lost.
POWERS = {dtype: range(-60, 61) if dtype != torch.float16 else range(-10, 12) for dtype in DTYPES}


def singular(x: Matrix) -> Matrix:
    """Singular values, largest first."""
    return np.asarray(np.linalg.svd(x, compute_uv=False), np.float64) if x.size else np.zeros(0)


def directions(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 7) -> Tensor:
    """Random entries of either sign with absolute values from 1/16 to 16, in `dtype` without rounding."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(shape, generator=generator, dtype=torch.float64) * 8 - 4
    entries = torch.exp2(size) * (torch.randint(0, 2, shape, generator=generator) * 2 - 1)
    return entries.to(dtype)


def matrices(x: Tensor, name: str) -> list[Matrix]:
    """What a norm sees of a stack [N, out, in], in float64."""
    wide = x.detach().double().numpy()
    return [part.reshape(1, part.size) if norms[name].shape == "whole" else part for part in wide]


def certified(d: Tensor, step: Tensor, name: str, near: float, low: float = 1.0, high: float = 1.0) -> None:
    """The step of each matrix has norm one, and its product with the direction is the dual norm: within [low, high]."""
    for one, unit in zip(matrices(d, name), matrices(step, name), strict=True):
        assert low - near <= NORM[name](unit) <= high + near
        product, dual = float((one * unit).sum()), DUAL[name](one)
        assert dual * (low - near) <= product <= dual * (high + near)
