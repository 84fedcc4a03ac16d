"""Models whose forward differentiates: a layer has the role that it has in the function, not in its derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F

import normc
from normc.plans.row import Row

Forward = Callable[[nn.Module, Tensor], Any]


class Net(nn.Module):
    """Three layers, used by any forward."""

    def __init__(self, forward: Forward, outputs: int = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, outputs))
        self.run = forward

    def forward(self, x: Tensor) -> Any:
        return self.run(self.net, x)


def slope(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


def forces(net: nn.Module, x: Tensor) -> Any:
    x = x.detach().requires_grad_(True)
    energy = net(x)
    return energy, -slope(energy, x)


def forces_alone(net: nn.Module, x: Tensor) -> Any:
    x = x.requires_grad_(True)
    return -slope(F.softplus(net(x)), x)


def residual(net: nn.Module, x: Tensor) -> Any:
    """Burgers' equation."""
    x = x.requires_grad_(True)
    u = net(x)
    first = slope(u, x)
    second = slope(first[:, 1], x)
    return first[:, :1] + u * first[:, 1:2] - 0.01 * second[:, 1:2]


def score(net: nn.Module, x: Tensor) -> Any:
    x = x.requires_grad_(True)
    return slope(net(x).logsumexp(-1), x)


def divergence(net: nn.Module, x: Tensor) -> Any:
    """A continuous flow's velocity, and its trace by a random probe."""
    x = x.requires_grad_(True)
    velocity, probe = net(x), torch.randn_like(x)
    (back,) = torch.autograd.grad(velocity, x, probe, create_graph=True)
    return velocity, (back * probe).sum(-1)


def penalty(net: nn.Module, x: Tensor) -> Any:
    mixed = x.clone().requires_grad_(True)
    return net(x), (slope(net(mixed), mixed).norm(dim=-1) - 1).square().mean()


CASES: dict[str, tuple[Forward, int]] = {
    "forces": (forces, 1),
    "forces alone": (forces_alone, 1),
    "residual of an equation": (residual, 1),
    "score of a classifier": (score, 10),
    "divergence": (divergence, 3),
    "gradient penalty": (penalty, 1),
    "func.grad": (lambda net, x: vmap(grad(lambda row: net(row).squeeze()))(x), 1),
    "func.jacrev": (lambda net, x: vmap(jacrev(net))(x), 4),
    "func.jacfwd": (lambda net, x: vmap(jacfwd(net))(x), 4),
    "func.hessian": (lambda net, x: vmap(hessian(lambda row: net(row).squeeze()))(x), 1),
    "func.jvp": (lambda net, x: jvp(net, (x,), (torch.ones_like(x),)), 4),
    "func.jvp, tangents alone": (lambda net, x: jvp(net, (x,), (torch.ones_like(x),))[1], 4),
}


def roles(rows: tuple[Row, ...]) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    return [(row.role, row.in_axes, row.out_axes) for row in rows if len(row.shape) == 2]


@pytest.mark.parametrize("name", CASES)
def test_layers_keep_the_order_of_the_function(name: str) -> None:
    forward, outputs = CASES[name]
    plan = normc.plan(Net(forward, outputs), torch.randn(5, 3))
    assert not any(row.fallback for row in plan.rows)
    assert roles(plan.rows) == [("input", (1,), (0,)), ("hidden", (1,), (0,)), ("output", (1,), (0,))]
    assert [row.role for row in plan.rows if row.name in ("net.0.bias", "net.2.bias")] == ["bias", "bias"]


def test_only_the_bias_that_a_derivative_drops_is_unused() -> None:
    def alone(net: nn.Module, x: Tensor) -> Any:
        x = x.requires_grad_(True)
        return slope(net(x), x)

    plan = normc.plan(Net(alone), torch.randn(5, 3))
    assert [row.name for row in plan.rows if row.role == "unused"] == ["net.4.bias"]


def test_blocks_come_from_the_function() -> None:
    class Atoms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kind, self.near = nn.Embedding(10, 12), nn.Linear(1, 12)
            self.norm, self.qkv, self.out = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 1)

        def forward(self, kinds: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
            places = places.detach().requires_grad_(True)
            far = (places[:, :, None] - places[:, None]).square().sum(-1, keepdim=True)
            h = self.kind(kinds) + self.near(far).tanh().sum(2)
            q, k, v = self.qkv(self.norm(h)).chunk(3, dim=-1)
            energy = self.out(h + (q @ k.mT).softmax(-1) @ v).sum((1, 2))
            return energy, slope(energy, places)

    rows = normc.plan(Atoms(), (torch.randint(10, (2, 5)), torch.randn(2, 5, 3)), strict=True).rows
    assert [(row.name, row.role, [block.size for block in row.blocks]) for row in rows] == [
        ("kind.weight", "embedding", []),
        ("near.weight", "input", []),
        ("near.bias", "bias", []),
        ("norm.weight", "gain", []),
        ("norm.bias", "bias", []),
        ("qkv.weight", "hidden", [12, 12, 12]),
        ("qkv.bias", "bias", [12, 12, 12]),
        ("out.weight", "output", []),
        ("out.bias", "bias", []),
    ]


def test_the_readout_of_an_energy_inside_a_model_is_hidden() -> None:
    class Descent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.energy, self.head = nn.Linear(3, 12), nn.Linear(12, 1), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).requires_grad_(True)
            out: Tensor = self.head(h - 0.1 * slope(F.softplus(self.energy(h)), h))
            return out

    rows = normc.plan(Descent(), torch.randn(5, 3), strict=True).rows
    assert [row.role for row in rows if len(row.shape) == 2] == ["input", "hidden", "output"]
