"""Small networks whose gains are known, or whose fault is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.nano_gpt import NanoGPT


def seeded_gpt(seed: int = 0, **sizes: int) -> NanoGPT:
    torch.manual_seed(seed)
    return NanoGPT(**sizes)


def tokens(seed: int = 1, batch: int = 4, time: int = 16) -> Tensor:
    return torch.randint(0, 96, (batch, time), generator=torch.Generator().manual_seed(seed))


def mlp(
    width: int = 64, *, factor: float = 1.0, deviation: float | None = None, readout: float = 0.5, seed: int = 0
) -> nn.Sequential:
    """Weights of standard deviation `deviation`, by default 1/sqrt(fan-in), the last ones fan-in ** -readout."""
    torch.manual_seed(seed)
    layers = [nn.Linear(32, width, bias=False), nn.Linear(width, width, bias=False), nn.Linear(width, 16, bias=False)]
    with torch.no_grad():
        for layer, power in zip(layers, (0.5, 0.5, readout), strict=True):
            layer.weight.normal_(0, factor * (deviation or layer.in_features**-power))
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def batch(size: int = 64) -> Tensor:
    return torch.randn(size, 32, generator=torch.Generator().manual_seed(3))


class Rectangle(nn.Module):
    """y = C relu(B A x), then half of it doubled in place: sizes that differ at every node, and a write."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b, self.c = nn.Linear(8, 20), nn.Linear(20, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.b(self.a(x)))
        y = self.c(h)
        y[:, :2].mul_(2)
        return y, h.mean(0)
