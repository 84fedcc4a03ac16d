"""Networks whose sharpness is planned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import normc
from normc.plans.plan import NormPlan
from tests.recipe.modula import nets

VECTORS = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


def planned(model: nn.Module, inputs: Tensor, gains: str = "sharp") -> NormPlan:
    return normc.plan(model, inputs, recipe="modular-dual", options={"gains": gains, "position_mass": 1.0})


class Tanh(nn.Module):
    """Linear layers with tanh between them."""

    def __init__(self, depth: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nets.linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, width]."""
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        out: Tensor = self.layers[-1](x)
        return out
