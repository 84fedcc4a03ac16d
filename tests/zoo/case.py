"""What a case of the zoo is, and small inputs.

An expectation is `role axes norm [blocks]`: axes has one letter an axis (i fan-in, o fan-out, x index, b block, k
kernel window, - none), blocks are the sizes in order, with ~ in front if they are interleaved. Keys are globs over
names; an exact key wins, else the longest that matches. They are written from the papers and the modules'
definitions, never from output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A model family: how to build it, what to feed it, and the rows that are right for it."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    expect: dict[str, str]


def tokens(length: int = 8, vocabulary: int = 96) -> torch.Tensor:
    """Token ids with repeats, [2, length]."""
    return torch.randint(3, vocabulary, (2, length), generator=torch.Generator().manual_seed(0))


def pixels(size: int = 32, channels: int = 3) -> torch.Tensor:
    """Images, [2, channels, size, size]."""
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
