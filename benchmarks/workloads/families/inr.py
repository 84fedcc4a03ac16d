"""An implicit representation: an MLP from a place to the colour of one large image there; other places are held out."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.pictures import pictures
from benchmarks.workloads.workload import Batch, Task, drawn, workload

SIDE = 256


class Field(nn.Module):
    """Waves of fixed random directions, then an MLP."""

    waves: Tensor

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        fixed = torch.Generator().manual_seed(5)
        self.register_buffer("waves", 20 * torch.randn(2, width // 2, generator=fixed))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 3)

    def forward(self, place: Tensor) -> Tensor:
        """[n, 2], each from -1 to 1, -> colours [n, 3]."""
        phase = place @ self.waves
        x = torch.cat((phase.sin(), phase.cos()), 1)
        for layer in self.layers:
            x = F.gelu(layer(x))
        colour: Tensor = self.head(x)
        return colour


def image() -> Tensor:
    """Return 64 pictures side by side, smoothed: [3, 256, 256]."""
    tiles = pictures(64, 99, "cpu").images.view(8, 8, 3, 32, 32)
    whole = tiles.permute(2, 0, 3, 1, 4).reshape(1, 3, SIDE, SIDE)
    return F.avg_pool2d(whole, 5, 1, 2)[0]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the colours."""
    return F.mse_loss(model(batch["x"]), batch["colour"])


@workload("inr", "coordinate MLP that represents an image of 256 x 256 pixels")
def inr(quick: bool, seed: int, device: str) -> Task:
    """Width 32 and 2 layers, or width 512 and 4."""
    width, depth, rows, steps, every = (32, 2, 256, 24, 8) if quick else (512, 4, 8192, 1000, 40)
    pixels = image().flatten(1).T.contiguous().to(device)
    order = torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(3))
    parts = order.split((SIDE * SIDE * 3 // 4, SIDE * SIDE // 8, SIDE * SIDE // 8))

    def cut(part: Tensor, generator: torch.Generator) -> Batch:
        chosen = part[torch.randint(0, len(part), (rows,), generator=generator)].to(device)
        place = torch.stack((chosen // SIDE, chosen % SIDE), 1) * (2 / (SIDE - 1)) - 1
        return {"x": place, "colour": pixels[chosen]}

    return drawn(
        lambda: Field(width, depth), loss, [partial(cut, part) for part in parts], ("x",),
        seed=seed, device=device, steps=steps, every=every, measured=4,
    )  # fmt: skip
