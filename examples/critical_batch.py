"""The critical batch size of a small byte model: `python -m examples.critical_batch [--quick]`. Results in out/cbs."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

import normc
from examples.comparison import machine
from examples.data import bible
from normc.cbs import Point, Trial

CONTEXT, WIDTH = 12, 128


class ByteMLP(nn.Module):
    """The next byte from the last CONTEXT ones: an embedding, two hidden layers, a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width // 4)
        self.first, self.second = nn.Linear(CONTEXT * width // 4, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 256)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, CONTEXT]. Logits [batch, 256]."""
        x = functional.gelu(self.first(self.embed(ids).flatten(1)))
        logits: Tensor = self.head(functional.gelu(self.second(x)))
        return logits


def windows(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """CONTEXT bytes from each start, and the byte that follows: long [n, CONTEXT] and [n]."""
    found = text[starts[:, None] + torch.arange(CONTEXT + 1)].long()
    return found[:, :-1], found[:, -1]


def trials(optimizer: str, width: int, seed: int = 0):  # type: ignore[no-untyped-def]
    """For `normc.cbs.measure`: from the same weights, on batches that are drawn anew each step."""
    text = bible()
    places = torch.randint(0, len(text.validation) - CONTEXT, (8192,), generator=torch.Generator().manual_seed(1))
    held_out = windows(text.validation, places)

    def loss(model: nn.Module) -> float:
        return float(functional.cross_entropy(model(held_out[0]), held_out[1]))

    def train(batch: int, lr: float) -> Trial:
        torch.manual_seed(seed)
        model = ByteMLP(width)
        if optimizer == "adamw":
            opt: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
        else:
            opt = normc.compile(model, held_out[0][:2], lr=lr, recipe=optimizer, compile=False)
        draw = torch.Generator().manual_seed(seed + 2)

        def step() -> None:
            ids, following = windows(text.train, torch.randint(0, len(text.train) - CONTEXT, (batch,), generator=draw))
            opt.zero_grad()
            functional.cross_entropy(model(ids), following).backward()
            opt.step()

        return Trial(model, step, loss)

    return train
