"""A model of three layers, trained by a recipe: what tests of checkpoints share."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

import normc

X = torch.linspace(-1, 1, 48).reshape(8, 6)


class Net(nn.Module):
    def __init__(self, order: str = "abc") -> None:
        super().__init__()
        for name in order:
            setattr(self, name, nn.Linear({"a": 6}.get(name, 8), {"c": 3}.get(name, 8)))

    def forward(self, x: Tensor) -> Tensor:
        for name in "abc":
            x = self.get_submodule(name)(x if name == "a" else torch.tanh(x))
        return x


def made(recipe: Any = "muon", model: nn.Module | None = None, **options: Any) -> tuple[nn.Module, normc.Optimizer]:
    torch.manual_seed(0)
    model = Net() if model is None else model
    dtype = next(model.parameters()).dtype
    options = {"lr": 0.02, "compile": False} | options
    return model, normc.compile(model, X.to(dtype), recipe=recipe, **options)


def train(model: nn.Module, opt: torch.optim.Optimizer, first: int, steps: int) -> None:
    for seed in range(first, first + steps):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).to(next(model.parameters()).dtype)
        (model(x) - x[:, :3]).square().mean().backward()
        opt.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", normc.NormcWarning)
            opt.zero_grad()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for _, parameter in sorted(model.named_parameters())])


def by_name(opt: normc.Optimizer) -> dict[str, dict[str, Tensor]]:
    pairs = [pair for g in opt.param_groups for pair in zip(g["param_names"], g["params"], strict=True)]
    return {name: opt.state[parameter] for name, parameter in pairs}


def trained(recipe: Any = "muon", **options: Any) -> tuple[nn.Module, normc.Optimizer]:
    model, opt = made(recipe, **options)
    train(model, opt, 0, 2)
    return model, opt
