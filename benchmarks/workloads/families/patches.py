"""A vision transformer and an MLP-Mixer on patches of 4 x 4 pixels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from benchmarks.workloads.layers import Block, Mlp
from benchmarks.workloads.pictured import pictured
from benchmarks.workloads.pictures import SIDE, SIGNS
from benchmarks.workloads.workload import Task, workload

PATCH = 4
PLACES = (SIDE // PATCH) ** 2


class MixerBlock(nn.Module):
    """An MLP over places, then one over features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_places, self.over_features = Mlp(PLACES, width // 2), Mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, places, width] -> the same."""
        x = x + self.over_places(self.first(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.over_features(self.second(x))
        return out


class Patched(nn.Module):
    """Patches, with learned places or none; blocks, the mean over places, a linear head."""

    def __init__(self, width: int, blocks: Iterable[nn.Module], *, placed: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.places = nn.Parameter(0.02 * torch.randn(PLACES, width)) if placed else None
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(SIGNS))

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, 32, 32] -> logits [n, 36]."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.places is not None:
            x = x + self.places
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


@workload("vit", "vision transformer on pictures of letters and digits", images=True)
def vit(quick: bool, seed: int, device: str) -> Task:
    """Width 32 and 2 layers, or width 128 and 4."""
    width, depth = (32, 2) if quick else (128, 4)

    def build() -> nn.Module:
        return Patched(width, (Block(width, width // 4, causal=False) for _ in range(depth)), placed=True)

    return pictured(build, quick, seed, device)


@workload("mixer", "MLP-Mixer on pictures of letters and digits", images=True)
def mixer(quick: bool, seed: int, device: str) -> Task:
    """Width 32 and 2 layers, or width 128 and 4."""
    width, depth = (32, 2) if quick else (128, 4)

    def build() -> nn.Module:
        return Patched(width, (MixerBlock(width) for _ in range(depth)), placed=False)

    return pictured(build, quick, seed, device)
