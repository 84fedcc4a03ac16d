"""torch's problem for its optimizers, recipe by recipe: what the tests here share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from normc.compiler import build
from normc.optimizer import Optimizer
from normc.plans.plan import NormPlan
from tests.handmade import draft, plan_of

RECIPES = ["auto", "muon", "scion", "scion-light", "normuon", "hyperball", "adamw", "adafactor", "lion", "sgd", "soap"]
DECAYING = ["auto", "muon", "normuon", "adamw", "lion", "sgd", "soap"]  # with a weight_decay in their groups


class Net(nn.Module):
    """torch's problem: (weight x + bias) squared, summed."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(10, 5, generator=generator, dtype=torch.float32).to(dtype))
        self.bias = nn.Parameter(torch.randn(10, generator=generator, dtype=torch.float32).to(dtype))
        self.register_buffer("x", torch.randn(5, generator=generator, dtype=torch.float32).to(dtype))

    def forward(self) -> torch.Tensor:
        assert isinstance(self.x, torch.Tensor)
        return (self.weight.mv(self.x) + self.bias).square().sum()


def plan(recipe: str) -> NormPlan:
    return plan_of([draft("weight", (10, 5), "hidden"), draft("bias", (10,), "bias")], recipe)


def made(recipe: str, **options: Any) -> tuple[Net, Optimizer]:
    model = Net()
    options = {"lr": 1e-3, "compile": False} | options
    return model, build(plan(recipe), model.named_parameters(), **options)


def closing(model: Net, opt: Optimizer) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss: torch.Tensor = model()
        loss.backward()
        return loss

    return closure


def weights(model: Net) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def run(model: Net, opt: Optimizer, steps: int = 3) -> torch.Tensor:
    """The weights after some steps."""
    for _ in range(steps):
        opt.step(closing(model, opt))
    return weights(model)


def same(here: Any, there: Any) -> bool:
    """Whether two states hold the same, to the last bit."""
    if isinstance(here, dict):
        return here.keys() == there.keys() and all(same(here[key], there[key]) for key in here)
    return torch.equal(here, there) if isinstance(here, torch.Tensor) else here == there
