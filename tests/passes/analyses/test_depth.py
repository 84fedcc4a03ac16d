"""How many blocks a model has: by the numbers in names, by weights that come again, by what repeats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from normc.model.facts import Log
from normc.model.trace.frontend import trace
from normc.model.trace.inputs import example_inputs
from normc.passes.analyses.depth import Depth
from normc.passes.analyses.request import Request
from normc.pipeline import analysed
from normc.recipe.by_name import recipes
from tests.recipe.recipes.tiny import TinyGPT, tokens


class Behind(nn.Module):
    """A model behind a first matrix: a stream begins with a weight."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(8, 8), rest

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))


class Branch(nn.Module):
    """x + f(x)."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Named(nn.Module):
    """Two kinds of branches in turn, without numbers in the names of their modules; or one kind, if `alike`."""

    def __init__(self, blocks: int, alike: bool = False) -> None:
        super().__init__()
        self.names = [f"{kind}{i}" for i in "abcdef"[:blocks] for kind in ("first", "second")]
        for name in self.names:
            setattr(self, name, nn.Linear(8, 8, bias=alike or "first" in name))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = x + getattr(self, name)(x)
        return x


class Shared(nn.Module):
    """One block that is passed again and again, as ALBERT has it."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layers, self.times = nn.ModuleList([nn.Linear(8, 8)]), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x + self.layers[0](x)
        return x


class Stages(nn.Module):
    """Two stages of blocks, each counted from 0, as ResNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(*(Branch(nn.Linear(8, 8)) for _ in range(2)))
        self.down = nn.Linear(8, 4)
        self.two = nn.Sequential(*(Branch(nn.Linear(4, 4)) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.down(self.one(x)))


def nested() -> nn.Module:
    """A branch inside of a branch makes no block of its own."""
    return nn.Sequential(*(Branch(nn.Linear(8, 8), Branch(nn.Linear(8, 8)), nn.Linear(8, 8)) for _ in range(3)))


CASES: list[tuple[Callable[[], nn.Module], int]] = [
    (lambda: TinyGPT(layers=4), 4),
    (lambda: Named(3), 3),
    (lambda: Named(2, alike=True), 4),
    (lambda: Shared(5), 5),
    (Stages, 5),
    (nested, 3),
    (lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 0),
]


@pytest.mark.parametrize(("make", "blocks"), CASES)
def test_blocks_are_counted(make: Callable[[], nn.Module], blocks: int) -> None:
    model = make()
    model = model if isinstance(model, TinyGPT) else Behind(model)
    inputs = tokens(0)[:, :-1] if isinstance(model, TinyGPT) else torch.randn(3, 8)
    graph = trace(model, *example_inputs(model, inputs))
    facts = analysed(graph, Request(recipes["u-mup"]), Log())
    assert facts[Depth].blocks == blocks
