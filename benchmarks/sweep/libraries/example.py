"""A model with an example of its inputs, and what builders of them share."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.sweep.vision import importable_torchvision


class Example(NamedTuple):
    """A model and the arguments of one forward."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Draw = random.Random
Build = Callable[[Draw], Example]


def of(model: nn.Module, *args: Any, **kwargs: Any) -> Example:
    """The example `model(*args, **kwargs)`."""
    return Example(model, args, kwargs)


def library(name: str) -> Any:
    """The module called `name`, imported. ImportError if it isn't installed."""
    importable_torchvision()
    return importlib.import_module(name)


def tokens(vocabulary: int, length: int = 9, rows: int = 2) -> Tensor:
    """Token ids with repeats, none of them 0."""
    return torch.randint(1, vocabulary, (rows, length))


def pixels(size: int = 32, channels: int = 3, rows: int = 2) -> Tensor:
    """Square images."""
    return torch.randn(rows, channels, size, size)


def heads(draw: Draw, per_head: int = 8) -> tuple[int, int]:
    """A number of heads and a width that it divides."""
    count = draw.choice((2, 3, 4))
    return count, count * per_head
