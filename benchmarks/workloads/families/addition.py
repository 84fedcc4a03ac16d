"""An encoder-decoder on modular addition: it reads the digits of two numbers and writes those of their sum mod 997.

One pair of numbers in ten, by a hash, is never trained on.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.layers import Attention, Block, Mlp, small
from benchmarks.workloads.workload import Batch, Task, drawn, workload

START = 10  # stands for no digit yet


class DecoderBlock(nn.Module):
    """Attention to what is written so far, attention to what was read, and an MLP."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.LayerNorm(width) for _ in range(3))
        self.own, self.other = Attention(width, size, causal=True), Attention(width, size, causal=False)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """[batch, time, width] -> the same."""
        x = x + self.own(self.first(x))
        x = x + self.other(self.second(x), memory)
        out: Tensor = x + self.mlp(self.third(x))
        return out


class EncoderDecoder(nn.Module):
    """Digits read and digits written to logits of the next digit."""

    def __init__(self, digits: int, width: int, depth: int) -> None:
        super().__init__()
        self.read, self.written = nn.Embedding(10, width), nn.Embedding(11, width)
        self.read_places, self.written_places = nn.Embedding(2 * digits, width), nn.Embedding(digits, width)
        self.encoder = nn.ModuleList(Block(width, width // 4, causal=False) for _ in range(depth))
        self.decoder = nn.ModuleList(DecoderBlock(width, width // 4) for _ in range(depth))
        self.memory_norm, self.norm, self.head = nn.LayerNorm(width), nn.LayerNorm(width), nn.Linear(width, 10)
        small(self)

    def forward(self, read: Tensor, written: Tensor) -> Tensor:
        """[batch, 2 digits] and [batch, digits] -> logits [batch, digits, 10]."""
        memory = self.read(read) + self.read_places(torch.arange(read.shape[1], device=read.device))
        for block in self.encoder:
            memory = block(memory)
        memory = self.memory_norm(memory)
        x = self.written(written) + self.written_places(torch.arange(written.shape[1], device=read.device))
        for block in self.decoder:
            x = block(x, memory)
        logits: Tensor = self.head(self.norm(x))
        return logits


def digits_of(number: Tensor, digits: int) -> Tensor:
    """[n] -> its decimal digits, the lowest first, [n, digits]."""
    return number[:, None] // 10 ** torch.arange(digits) % 10


def pairs(modulus: int, digits: int, rows: int, part: int | None, generator: torch.Generator) -> Batch:
    """Return sums of one held-out part, or of the pairs to train on (None)."""
    first, second = torch.randint(0, modulus, (2, rows * 32 if part is not None else rows * 2), generator=generator)
    mark = (first * 7919 + second * 104_729) % 1009 % 20
    chosen = mark > 1 if part is None else mark == part
    first, second = first[chosen][:rows], second[chosen][:rows]
    total = digits_of((first + second) % modulus, digits)
    start = torch.full((len(total), 1), START)
    read = torch.cat((digits_of(first, digits), digits_of(second, digits)), 1)
    return {"read": read, "written": torch.cat((start, total[:, :-1]), 1), "label": total}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of the digits."""
    return F.cross_entropy(model(batch["read"], batch["written"]).flatten(0, 1), batch["label"].flatten())


@workload("addition", "encoder-decoder on addition mod 997, digit by digit")
def addition(quick: bool, seed: int, device: str) -> Task:
    """Mod 13, width 32 and a layer each; or mod 997, width 192 and 3."""
    modulus, digits = (13, 2) if quick else (997, 3)
    width, depth, rows, steps, every = (32, 1, 32, 24, 8) if quick else (192, 3, 512, 600, 20)
    cuts = [partial(pairs, modulus, digits, rows, part) for part in (None, 0, 1)]
    return drawn(
        lambda: EncoderDecoder(digits, width, depth), loss, cuts, ("read", "written"),
        seed=seed, device=device, steps=steps, every=every, measured=4,
    )  # fmt: skip
