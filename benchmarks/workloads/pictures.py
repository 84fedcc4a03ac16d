"""Coloured letters and digits on coloured ground, 3 x 32 x 32, drawn on the spot in the fonts of matplotlib."""

from __future__ import annotations

import functools
import math
import string
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.workloads.workload import Batch

SIGNS = string.ascii_uppercase + string.digits
SIDE = 32
PART = 8192  # pictures that are drawn at a time


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images (float [n, 3, 32, 32], about mean 0 and deviation 1) and which sign each shows (long [n])."""

    images: Tensor
    labels: Tensor

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        """Return `rows` pictures drawn from `generator`."""
        chosen = torch.randint(0, len(self.labels), (rows,), generator=generator).to(self.labels.device)
        return {"x": self.images[chosen], "label": self.labels[chosen]}

    def batches(self, rows: int) -> tuple[Batch, ...]:
        """Return all pictures in batches of `rows`."""
        parts = zip(self.images.split(rows), self.labels.split(rows), strict=True)
        return tuple({"x": images, "label": labels} for images, labels in parts)


@functools.cache
def signs() -> Tensor:
    """Return every sign in every font: float [fonts, signs, 32, 32] between 0 and 1."""
    import matplotlib as mpl
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    files = [path for kind in ("DejaVu*.ttf", "STIXGeneral*.ttf") for path in sorted(folder.glob(kind))]
    fonts = [ImageFont.truetype(str(path), 24) for path in files if "Display" not in path.name]
    sheets = []
    for font in fonts:
        for sign in SIGNS:
            image = Image.new("L", (SIDE, SIDE))
            ImageDraw.Draw(image).text((SIDE / 2, SIDE / 2), sign, fill=255, font=font, anchor="mm")
            sheets.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIDE, SIDE))
    return torch.stack(sheets).view(len(fonts), len(SIGNS), SIDE, SIDE) / 255


def placed(generator: torch.Generator, count: int, device: str, easy: bool) -> tuple[Tensor, Tensor]:
    """Return `count` random signs, turned, scaled and moved ([count, 1, 32, 32]), and which they are."""
    bank = signs()[:, :4] if easy else signs()
    font, label = (torch.randint(0, n, (count,), generator=generator) for n in bank.shape[:2])
    angle, size, right, down = torch.rand(4, count, generator=generator)
    angle, size, right, down = (angle - 0.5) * math.pi / 6, 0.8 + 0.4 * size, right / 2 - 0.25, down / 2 - 0.25
    if easy:
        angle, size, right, down = 0 * angle, 0 * size + 0.8, 0 * right, 0 * down
    turn = torch.stack((angle.cos(), -angle.sin(), right, angle.sin(), angle.cos(), down), 1).view(-1, 2, 3)
    grid = F.affine_grid((turn * size.view(-1, 1, 1)).to(device), [count, 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(bank[font, label][:, None].to(device), grid, align_corners=False), label.to(device)


@functools.cache
def pictures(count: int, key: int, device: str, easy: bool = False, noise: float = 0.1) -> Pictures:
    """Return `count` pictures that depend on `key` alone: a sign over a fainter second one, and noise.

    `easy` ones are upright, of the first four signs, alone, bright on dark ground.
    """
    parts = [drawn(min(PART, count - start), key + 100 * start, device, easy, noise) for start in range(0, count, PART)]
    return Pictures(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def drawn(count: int, key: int, device: str, easy: bool, noise: float) -> tuple[Tensor, Tensor]:
    """Return images and labels. The noise is drawn on the device, all else on the CPU."""
    generator = torch.Generator().manual_seed(7919 + key)
    shape, label = placed(generator, count, device, easy)
    other, _ = placed(generator, count, device, easy)
    ink, ground, faint = torch.rand(3, count, 3, 1, 1, generator=generator).to(device)
    ink = (ground + 0.35 + 0.3 * ink) % 1  # as far from the ground in each colour as it can be, more or less
    if easy:
        ground, ink, faint = 0.2 * ground, 0.8 + 0.2 * ink, 0.2 * ground
    image = torch.lerp(torch.lerp(ground.expand(-1, -1, SIDE, SIDE), faint, 0.25 * other), ink, shape)
    grain = torch.randn(image.shape, generator=torch.Generator(device).manual_seed(7919 + key), device=device)
    return (image + noise * grain - 0.5) / 0.3, label
