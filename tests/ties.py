"""Eigenbases that rounding doesn't choose.

A gradient of low rank leaves most of its factors' bases open, and SOAP sees later gradients entry by entry in them: two
runs that differ in rounding agree only if something else chooses for both.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

# The recipes that rotate into eigenbases. Their first step makes these, and takes no gradient.
ROTATING = ("soap", "soap-muon", "kl-soap", "kl-shampoo")


def firm_bases(patch: pytest.MonkeyPatch) -> None:
    """Let torch.linalg.eigh see matrices with well separated numbers added to their diagonal, in float64."""
    exact = torch.linalg.eigh

    def firm(a: Tensor) -> tuple[Tensor, Tensor]:
        wide = a.double()
        level = wide.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp_min(1e-30)
        values, vectors = exact(wide / level + torch.diag(torch.linspace(0.0, 1.0, a.shape[-1], dtype=torch.float64)))
        return values.to(a.dtype), vectors.to(a.dtype)

    patch.setattr(torch.linalg, "eigh", firm)
