"""One fused layer between two others, for tests of what its outputs' parts are told apart by."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc

BATCH, PLACES, HEADS, HEAD = 3, 9, 4, 6
WIDTH = HEADS * HEAD


class Fused(nn.Module):
    """stem, then `core`, which uses `fused` (`rows` outputs), then head."""

    rows = 3 * WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fused, self.head = nn.Linear(20, WIDTH), nn.Linear(WIDTH, self.rows), nn.Linear(WIDTH, 5)
        self.more()

    def more(self) -> None:
        """Other parameters."""

    def core(self, h: Tensor) -> Tensor:
        """[batch, places, width] to the same."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, places, 20]."""
        out: Tensor = self.head(self.core(self.stem(x).relu()))
        return out

    def thirds(self, h: Tensor) -> list[Tensor]:
        """Queries, keys and values by head, of rows in sections."""
        return [by_head(part) for part in self.fused(h).chunk(3, -1)]


def by_head(x: Tensor) -> Tensor:
    """[batch, places, heads * width] to [batch, heads, places, width]."""
    return x.unflatten(-1, (-1, HEAD)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention written out, heads merged."""
    return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)


def kept_whole(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as one op, heads merged."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def rotated(x: Tensor) -> Tensor:
    """Rotary position in halves."""
    angle = torch.arange(x.shape[-2])[:, None] * torch.arange(x.shape[-1]) * 0.1
    one, other = x.chunk(2, -1)
    return x * angle.cos() + torch.cat((-other, one), -1) * angle.sin()


def rotated_in_pairs(x: Tensor) -> Tensor:
    """Rotary position in neighbouring pairs."""
    angle = torch.arange(x.shape[-2])[:, None] * torch.arange(x.shape[-1] // 2) * 0.1
    one, other = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = one * angle.cos() - other * angle.sin(), other * angle.cos() + one * angle.sin()
    return torch.stack(turned, -1).flatten(-2)


def blocks_of(model: nn.Module, row: str = "fused.weight", heads: bool = False) -> str:
    """`q 24, k ~12`: labels and sizes of a row's blocks, ~ before the size of one that lies in several stretches.

    Together they fill the axis, without overlap.
    """
    plan = normc.plan(model, torch.randn(BATCH, PLACES, 20), heads=heads)
    blocks = plan[row].blocks
    if blocks:
        entries = sorted(entry for block in blocks for span in block.spans for entry in range(*span))
        assert entries == list(range(plan[row].shape[blocks[0].axis]))
    return ", ".join(f"{block.label} {'~' if len(block.spans) > 1 else ''}{block.size}" for block in blocks)
