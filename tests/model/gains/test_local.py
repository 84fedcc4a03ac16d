"""Rules of single ops, against what they do to random entries."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc

WIDTH, COUNT = 16, 512


class Between(nn.Module):
    """A function between two layers: what it makes of Gaussian entries, and what it does to their changes."""

    def __init__(self, function: Callable[[Tensor], Tensor], out: int = WIDTH) -> None:
        super().__init__()
        self.function = function
        self.before, self.after = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(out, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, width]."""
        out: Tensor = self.after(self.function(self.before(x)))
        return out


def found(function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Size of the result and gain, from a plan."""
    like = function(torch.randn(COUNT, WIDTH))
    plan = normc.plan(Between(function, like.shape[-1]), torch.randn(COUNT, WIDTH), recipe="modular-dual")
    gain, size = plan["before.weight"].sensitivity, plan["after.weight"].magnitude
    assert gain is not None and size is not None
    return size, gain * min(size, 1.0)


def tried(function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The same, measured."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    y = function(x)
    squares = 0.0
    for _ in range(8):
        noise = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        (grad,) = torch.autograd.grad(y, x, noise, retain_graph=True)
        squares += float(grad.square().sum()) / y.numel() / 8
    return float(y.detach().square().mean().sqrt()), math.sqrt(squares)


ROWS = torch.arange(COUNT) % 8
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "1 - x": lambda x: 1 - x,
    "x + 3": lambda x: x + 3,
    "2 sigmoid - 1": lambda x: 2 * x.sigmoid() - 1,
    "1 + elu": lambda x: 1 + F.elu(x),
    "rows added": lambda x: torch.zeros(8, WIDTH, dtype=x.dtype).index_add(0, ROWS, x),
    "a part written": lambda x: torch.slice_scatter(torch.zeros(COUNT, 64, dtype=x.dtype), x, 1, 0, WIDTH),
    "exp of decays": lambda x: torch.exp(-8 * F.softplus(x).cumsum(-1)),
    "over a sum of exps": lambda x: torch.exp(2 * x) / torch.exp(2 * x).sum(-1, keepdim=True),
    "minus the largest": lambda x: torch.exp(4 * (x - x.amax(-1, keepdim=True))),
    "over a positive": lambda x: x / (x.abs() + 0.05),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sizes_and_gains_are_those_of_random_entries(name: str) -> None:
    size, gain = found(FUNCTIONS[name])
    expected_size, expected_gain = tried(FUNCTIONS[name])
    assert size == pytest.approx(expected_size, rel=0.35)
    assert expected_gain / 2 < gain < 2 * expected_gain


class Modulated(nn.Module):
    """A filter whose inputs are scaled by what another layer computed, and brought back to norm 1, as in StyleGAN 2."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.weight = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x, z: [batch, width]."""
        weight = self.weight[None] * (self.style(z) + 1)[:, None]
        weight = weight * torch.rsqrt(weight.square().sum(2, keepdim=True) + 1e-8)
        return torch.einsum("boi,bi->bo", weight, x)


def test_what_makes_a_weight_has_a_gain() -> None:
    plan = normc.plan(Modulated(), (torch.randn(64, WIDTH), torch.randn(64, WIDTH)), recipe="modular-dual")
    for row in plan.rows:
        assert row.sensitivity is not None and 0.2 < row.sensitivity < 2, row.name


class WeightNormed(nn.Module):
    """A gain that a weight has before it meets anything."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, width]."""
        out: Tensor = self.layer(x)
        return out


def test_the_gain_of_a_weight_moves_what_the_weight_makes() -> None:
    plan = normc.plan(WeightNormed(), torch.randn(64, WIDTH), recipe="modular-dual")
    gain = plan["layer.parametrizations.weight.original0"]
    assert gain.sensitivity == pytest.approx(1.0) and gain.magnitude == pytest.approx(1.0)


class Placed(nn.Module):
    """Positions, as a parameter that is added; a multiple of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(32, WIDTH), nn.Parameter(torch.zeros(4, WIDTH))
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, 4]."""
        out: Tensor = self.head(F.layer_norm(self.table(ids) * 7.0 + self.places, (WIDTH,)))
        return out


def test_added_positions_have_a_size_and_a_multiple_of_a_table_is_on_the_sphere() -> None:
    plan = normc.plan(Placed(), torch.randint(0, 32, (3, 4)), recipe="modular-dual")
    assert plan["places"].sensitivity == pytest.approx(2**-0.5)
    assert plan["table.weight"].sensitivity == pytest.approx(7 * 2**-0.5)


class Turned(nn.Module):
    """A rotation by tables of cos and sin."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        angles = torch.outer(torch.arange(6.0), 0.5 ** torch.arange(WIDTH // 2)).repeat(1, 2)
        self.cos, self.sin = nn.Buffer(angles.cos()), nn.Buffer(angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 6, width]."""
        x = self.before(x)
        first, second = x.chunk(2, -1)
        out: Tensor = self.after(x * self.cos + torch.cat((-second, first), -1) * self.sin)
        return out


@pytest.mark.parametrize("gains", ["average", "sharp", "modula"])
def test_a_rotation_has_gain_one(gains: str) -> None:
    plan = normc.plan(Turned(), torch.randn(2, 6, WIDTH), recipe="modular-dual", options={"gains": gains})
    worst = 2**0.5 if gains == "sharp" else 1.0  # a half may have all of the change
    assert 0.99 < (plan["before.weight"].sensitivity or 0.0) < worst * 1.5


def test_a_norm_ends_what_is_unknown() -> None:
    def function(x: Tensor) -> Tensor:
        return F.layer_norm(torch.linalg.cholesky(x[:WIDTH]), (WIDTH,))

    plan = normc.plan(Between(function), torch.randn(COUNT, WIDTH), recipe="modular-dual")
    assert plan["before.weight"].sensitivity is None
    assert plan["after.weight"].sensitivity == pytest.approx(1.0) and plan["after.weight"].magnitude == 1.0
