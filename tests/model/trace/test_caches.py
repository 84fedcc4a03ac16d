"""A cache beside a model's code keeps nothing of a trace, in whatever way the function is decorated."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import normc
from tests.model.trace import elsewhere


@functools.lru_cache
def places(length: int) -> Tensor:
    return torch.arange(length).float()


def wrapped(function: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    kept = functools.lru_cache(function)

    @functools.wraps(function)
    def call(length: int) -> Tensor:
        return kept(length)

    return call


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(x + places(4))
        return mixed


class Static(Plain):
    @staticmethod
    @wrapped
    def table(length: int) -> Tensor:
        return torch.arange(length).float()

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(x + self.table(4))
        return mixed


class Elsewhere(Plain):
    """What is cached in a file that holds no class of the model: on a function, and on a class."""

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(x + elsewhere.places(4) + elsewhere.Rule.nodes(4))
        return mixed


@pytest.mark.parametrize("kind", [Plain, Static, Elsewhere])
def test_a_cached_tensor_of_a_trace_is_gone(kind: type[nn.Module]) -> None:
    model = kind()
    for _ in range(2):
        normc.plan(model, torch.zeros(2, 4))
        assert type(model(torch.zeros(2, 4))) is Tensor
