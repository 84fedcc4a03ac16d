"""Update ops that see a step neuron by neuron: NorMuon's normaliser (arXiv 2510.05491).

As in `arithmetic`, their source is copied into every generated module: torch alone, and each other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def neuron_moment(v: Tensor, u: Tensor, beta2: float) -> Tensor:
    """The running average v [N, B, out] of each neuron's mean square in steps u [N * B, out, in]. Shape of v."""
    return v.lerp(u.square().mean(-1).reshape(v.shape), 1.0 - beta2)


def neuron_normalised(u: Tensor, v: Tensor, eps: float, length: float | None = None) -> Tensor:
    """Each neuron of the matrices u [N * B, out, in] over the root of its v [N, B, out]; the 2-norm of u is kept.

    With `length` every matrix gets that 2-norm instead. Shape and dtype of u; zero stays zero.
    """
    if u.numel() == 0:
        return u
    divided: Tensor = u / (v.reshape(u.shape[0], u.shape[1], 1).sqrt() + eps)
    before: Tensor | float = length or torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=True)
    after: Tensor = torch.linalg.vector_norm(divided, dim=(-2, -1), keepdim=True)
    return divided * (before / (after + eps))
