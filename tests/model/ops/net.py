"""A small net around what a test is about: a stem, a forward over bare parameters, and a head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import normc
from tests.zoo.test_zoo import said

Forward = Callable[..., Any]
Shapes = dict[str, tuple[int, ...]]


class Around(nn.Module):
    """`forward(self, h, *others)` of the stem's result, [batch, 6, 24], between two layers."""

    def __init__(self, shapes: Shapes, forward: Forward, width: int = 24, head: bool = True) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 24), nn.Linear(width, 5) if head else None
        self.body = forward
        for name, shape in shapes.items():
            dtype = torch.complex64 if name.startswith("complex") else torch.float32
            self.register_parameter(name, nn.Parameter(torch.randn(shape, dtype=dtype)))

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        found = self.body(self, self.stem(x).relu(), *others)
        return found if self.head is None else self.head(found.relu())


def planned(shapes: Shapes, forward: Forward, *others: Tensor, width: int = 24, head: bool = True) -> normc.NormPlan:
    """The plan of a net around `forward`."""
    return normc.plan(Around(shapes, forward, width, head), (torch.randn(4, 6, 8), *others))


def rows(
    shapes: Shapes, forward: Forward, *others: Tensor, width: int = 24, head: bool = True, also: tuple[str, ...] = ()
) -> list[str]:
    """Those parameters' rows in the zoo's notation, none of them a fallback, and rows of the other names in `also`."""
    plan = planned(shapes, forward, *others, width=width, head=head)
    found = [plan.by_name[name] for name in (*shapes, *also)]
    assert not [row.fallback for row in found if row.fallback]
    return [said(row) for row in found]
