"""A small model that learns real text, in a second or two: the next byte of the source of Python's own argparse."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

import torch
from torch import Tensor, nn

BEFORE = 8  # bytes that the next one is told from


class Reader(nn.Module):
    """The bytes before, looked up and put beside each other, through two layers."""

    def __init__(self, width: int = 16, hidden: int = 96) -> None:
        super().__init__()
        self.table = nn.Embedding(128, width)
        self.up = nn.Linear(BEFORE * width, hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 128, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        """Scores [samples, 128] of the next byte after text [samples, BEFORE]."""
        x = torch.relu(self.up(self.table(text).flatten(1)))
        return self.head(x + torch.relu(self.middle(x)))


def reader(dtype: torch.dtype = torch.float32) -> tuple[Reader, Tensor]:
    """The model at the same start each time, and the text."""
    text = torch.tensor([min(byte, 127) for byte in inspect.getsource(argparse).encode()])
    torch.manual_seed(0)
    return Reader().to(dtype), text


def read(model: nn.Module, opt: Any, text: Tensor, steps: int, order: int = 0, zeroes: bool = True) -> float:
    """Plain steps on samples of 256, their `order` a seed; the loss on 4,096 others, the same each time."""
    generator = torch.Generator().manual_seed(order)
    for _ in range(steps):
        loss_on(model, text, torch.randint(0, len(text) - BEFORE, (256,), generator=generator)).backward()
        opt.step()
        if zeroes:
            opt.zero_grad()
    with torch.no_grad():
        held = torch.randint(0, len(text) - BEFORE, (4096,), generator=torch.Generator().manual_seed(1000))
        return float(loss_on(model, text, held))


def loss_on(model: nn.Module, text: Tensor, starts: Tensor) -> Tensor:
    """The cross entropy of the bytes after these places, in nats."""
    windows = text[starts[:, None] + torch.arange(BEFORE + 1)]
    return nn.functional.cross_entropy(model(windows[:, :-1]).float(), windows[:, -1])
