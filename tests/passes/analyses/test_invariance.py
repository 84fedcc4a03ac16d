"""The same layer written in other ways gets the same norm, fans and scale; its storage order must not matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import normc
from normc.plans.row import Row

Form = Callable[[nn.Module, int, int], Callable[[Tensor], Tensor]]
FORMS: dict[str, Form] = {}


def form(name: str) -> Callable[[Form], Form]:
    """One way to write x [time, d_in] -> [time, d_out]; it registers its parameters on the module."""

    def add(make: Form) -> Form:
        FORMS[name] = make
        return make

    return add


def weight(module: nn.Module, name: str, *shape: int) -> nn.Parameter:
    """A parameter, registered."""
    made = nn.Parameter(torch.randn(*shape))
    module.register_parameter(name, made)
    return made


@form("linear")
def linear(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    w = weight(m, "w", d_out, d_in)
    return lambda x: F.linear(x, w)


@form("stored (in, out), matmul")
def matmul(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    w = weight(m, "w", d_in, d_out)
    return lambda x: x @ w


@form("addmm with zeros")
def addmm(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    w = weight(m, "w", d_in, d_out)
    return lambda x: torch.addmm(torch.zeros(d_out), x, w)


@form("weight on the left")
def left(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    w = weight(m, "w", d_out, d_in)
    return lambda x: (w @ x.T).T


@form("einsum, letters permuted")
def einsum(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    w = weight(m, "w", d_in, d_out)
    return lambda x: torch.einsum("pq,ap->aq", w, x)


@form("1x1 convolution")
def conv(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    w = weight(m, "w", d_out, d_in, 1, 1)
    return lambda x: F.conv2d(x.T[None, :, :, None], w)[0, :, :, 0].T


@form("stored with heads, (heads, width, in)")
def heads(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    w = weight(m, "w", 2, d_out // 2, d_in)
    return lambda x: x @ w.reshape(d_out, d_in).T


@form("cast and scaled on the way")
def cast(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    w = weight(m, "w", d_out, d_in)
    return lambda x: F.linear(x, (w.double() * 0.5).float())


@form("under checkpointing")
def checkpointed(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    w = weight(m, "w", d_out, d_in)
    return lambda x: checkpoint(F.linear, x, w, use_reentrant=False)


@form("two parameters joined into one operand")
def joined(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    a, b = weight(m, "w_a", d_out // 2, d_in), weight(m, "w_b", d_out // 2, d_in)
    return lambda x: F.linear(x, torch.cat([a, b]))


@form("two products side by side")
def beside(m: nn.Module, d_in: int, d_out: int) -> Callable[[Tensor], Tensor]:
    a, b = weight(m, "w_a", d_out // 2, d_in), weight(m, "w_b", d_in, d_out // 2)
    return lambda x: torch.cat([F.linear(x, a), x @ b], dim=-1)


class Net(nn.Module):
    """A stem, one layer in some form, and a head; with a residual around the layer if its sizes allow."""

    def __init__(self, name: str, d_in: int, d_out: int, residual: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, d_in), nn.Linear(d_out, 5)
        self.layer = FORMS[name](self, d_in, d_out)
        self.residual = residual and d_in == d_out

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.layer(x)
        return self.head(x + y if self.residual else y.relu())


def rows(name: str, d_in: int, d_out: int, residual: bool) -> list[Row]:
    """The rows of the layer's own parameters."""
    plan = normc.plan(Net(name, d_in, d_out, residual), torch.randn(7, 3))
    return [row for row in plan.rows if row.name.startswith("w")]


@pytest.mark.parametrize("name", sorted(FORMS))
@settings(max_examples=6, deadline=None, derandomize=True)
@given(d_in=st.sampled_from([2, 4, 6, 10]), d_out=st.sampled_from([4, 6, 8, 10]), residual=st.booleans())
def test_a_layer_in_another_form_has_the_same_row(name: str, d_in: int, d_out: int, residual: bool) -> None:
    found = rows(name, d_in, d_out, residual)
    assert {(row.role, row.norm, row.fan_in, row.fallback) for row in found} == {("hidden", "spectral", d_in, None)}
    assert sum(row.fan_out for row in found) == d_out
    for row in found:
        assert not row.blocks
        assert row.scale.value == pytest.approx(row.target * math.sqrt(row.fan_out / row.fan_in), rel=1e-12)
