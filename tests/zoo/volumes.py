"""Convolutions over volumes, video and time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.awkward import vectors
from tests.zoo.case import Case
from tests.zoo.convolutional import ENDS, NORM, STEM


class Volume(nn.Module):
    """A V-Net: 3d convolutions, instance norm, a grouped transposed convolution, a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True)
        self.down, self.norm2 = nn.Conv3d(8, 16, 2, stride=2), nn.GroupNorm(4, 16)
        self.up, self.mix = nn.ConvTranspose3d(16, 8, 2, stride=2, groups=4), nn.Conv3d(16, 8, 3, padding=1)
        self.last = nn.Conv3d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(self.stem(x)))
        y = F.elu(self.norm2(self.down(x)))
        return self.last(self.mix(torch.cat([self.up(y), x], dim=1)).relu())


class Video(nn.Module):
    """R(2+1)D: a convolution over space, then one over time; then a 1d network over the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.time = nn.Conv3d(3, 8, (1, 3, 3)), nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
        self.conv1d, self.head = nn.Conv1d(8, 16, 3, dilation=2, padding=2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.time(self.stem(x).relu()).relu().mean((3, 4))
        x = self.conv1d(x).relu()
        return self.head(torch.cat([x.mean(-1), x.std(-1)], dim=-1))


VOLUMES: dict[str, Case] = {
    "v-net": Case(
        Volume,
        lambda: vectors(2, 1, 4, 4, 4),
        STEM
        | NORM
        | {
            "stem.weight": "input oikkk spectral",
            "down.weight": "hidden oikkk spectral",
            "up.weight": "hidden iokkk spectral 4 4 4 4",
            "mix.weight": "hidden oikkk spectral",
            "last.weight": "output oikkk sign",
        },
    ),
    "video": Case(
        Video,
        lambda: vectors(2, 3, 4, 6, 6),
        ENDS
        | {
            "stem.weight": "input oikkk spectral",
            "time.weight": "hidden oikkk spectral",
            "conv1d.weight": "hidden oik spectral",
        },
    ),
}
