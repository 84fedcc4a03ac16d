"""A U-Net that takes noise out of pictures: it is told how much there is, and predicts it."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.pictures import Pictures, pictures
from benchmarks.workloads.workload import Batch, Task, drawn, workload


class Stage(nn.Module):
    """Two convolutions with group norms around a shortcut; the level of noise is added to every feature between."""

    def __init__(self, narrow: int, wide: int, level: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.GroupNorm(4, narrow), nn.GroupNorm(4, wide)
        self.first, self.second = nn.Conv2d(narrow, wide, 3, padding=1), nn.Conv2d(wide, wide, 3, padding=1)
        self.level, self.shortcut = nn.Linear(level, wide), nn.Conv2d(narrow, wide, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """[n, narrow, h, w] -> [n, wide, h, w]."""
        y = self.first(F.silu(self.first_norm(x))) + self.level(level)[:, :, None, None]
        out: Tensor = self.shortcut(x) + self.second(F.silu(self.second_norm(y)))
        return out


class UNet(nn.Module):
    """Three sizes down and up again, with what was seen on the way down beside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        level = 4 * width
        self.embed, self.embed_again = nn.Linear(width, level), nn.Linear(level, level)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList([Stage(width, width, level), Stage(width, 2 * width, level)])
        self.middle = Stage(2 * width, 2 * width, level)
        self.up = nn.ModuleList([Stage(4 * width, width, level), Stage(2 * width, width, level)])
        self.norm, self.head, self.width = nn.GroupNorm(4, width), nn.Conv2d(width, 3, 3, padding=1), width

    def forward(self, x: Tensor, angle: Tensor) -> Tensor:
        """Pictures [n, 3, 32, 32] and the angle of noise [n] -> the noise."""
        waves = angle[:, None] * 2.0 ** torch.arange(self.width // 2, device=x.device).clamp(max=6)
        level = F.silu(self.embed_again(F.silu(self.embed(torch.cat((waves.sin(), waves.cos()), 1)))))
        x, seen = self.stem(x), []
        for stage in self.down:
            x = stage(x, level)
            seen.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.middle(x, level)
        for stage, other in zip(self.up, reversed(seen), strict=True):
            x = stage(torch.cat((F.interpolate(x, scale_factor=2.0), other), 1), level)
        noise: Tensor = self.head(F.silu(self.norm(x)))
        return noise


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the noise."""
    return F.mse_loss(model(batch["x"], batch["angle"]), batch["noise"])


@workload("unet", "denoising U-Net on pictures of letters and digits", images=True)
def unet(quick: bool, seed: int, device: str) -> Task:
    """Width 8 or 32."""
    width, count, measured, rows, steps, every = (8, 256, 64, 8, 24, 8) if quick else (32, 65_536, 512, 128, 500, 20)

    def noisy(given: Pictures, generator: torch.Generator) -> Batch:
        x = given.batch(rows, generator)["x"]
        angle = (torch.rand(rows, generator=generator) * math.pi / 2).to(device)
        noise = torch.randn(x.shape, generator=generator).to(device)
        mixed = angle.cos().view(-1, 1, 1, 1) * x + angle.sin().view(-1, 1, 1, 1) * noise
        return {"x": mixed, "angle": angle, "noise": noise}

    sets = (pictures(n, key, device, quick, 0.0) for key, n in enumerate((count, measured, measured)))
    cuts = [partial(noisy, given) for given in sets]
    return drawn(
        lambda: UNet(width), loss, cuts, ("x", "angle"),
        seed=seed, device=device, steps=steps, every=every, measured=2 if quick else 4,
    )  # fmt: skip
