"""Sizes that a bent function sends to nothing, or out of sight, because Gaussians lie far out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.plans.plan import NormPlan

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


class Kernels(nn.Module):
    """Features that are a function of the distances to learned centres, and a readout."""

    def __init__(self, kernel: Callable[[Tensor, Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kernel = kernel
        self.first, self.readout = nn.Linear(6, width), nn.Linear(24, 3)
        self.centres = nn.Parameter(torch.rand(24, width) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 6]."""
        return self.readout(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """[batch, 24]."""
        return self.kernel(torch.tanh(self.first(x)), self.centres)


def squared(y: Tensor, centres: Tensor) -> Tensor:
    return (y[:, None] - centres).square().sum(-1)


def expanded(y: Tensor, centres: Tensor) -> Tensor:
    return y.square().sum(-1, keepdim=True) - 2 * y @ centres.T + centres.square().sum(-1)


FAR: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "gaussian": (lambda y, c: torch.exp(-squared(y, c)), 16),
    "gaussian of few features": (lambda y, c: torch.exp(-squared(y, c)), 8),
    "expanded": (lambda y, c: torch.exp(-expanded(y, c)), 16),
    "a sigmoid of distances": (lambda y, c: torch.sigmoid(2 - squared(y, c)), 32),
    "exploding": (lambda y, c: torch.exp(squared(y, c)), 32),
}


def planned(kernel: Callable[[Tensor, Tensor], Tensor], width: int = 8, **more: Any) -> tuple[Kernels, NormPlan]:
    model = Kernels(kernel, width)
    return model, normc.plan(model, X, **more)


def said(plan: NormPlan) -> list[str]:
    return [note for note in plan.notes if "for operands of the sizes that the plan assumes" in note]


@pytest.mark.parametrize("name", FAR)
def test_a_step_is_near_what_the_real_size_gives_and_the_plan_says_what_rests_on_a_guess(name: str) -> None:
    model, plan = planned(*FAR[name])
    row, size = plan["readout.bias"], float(model.features(X).detach().square().mean().sqrt())
    assert row.mass is not None
    assert 1 / 8 < row.target / (row.mass * min(1.0, size)) < 8
    (note,) = said(plan)
    assert ("explodes" if name == "exploding" else "nearly vanishes") in note
    assert "readout.weight, readout.bias rest on that" in note and "test_collapse.py" in note


@pytest.mark.parametrize("width", [64, 512, 2048])
def test_a_readout_learns_however_far_the_centres_are(width: int) -> None:
    model, plan = planned(FAR["gaussian"][0], width)
    opt = normc.compile(model, X, lr=0.1, compile=False)
    assert plan["readout.bias"].target > 1e-4
    assert len(said(plan)) == 1
    before = model.readout.bias.detach().clone()
    for _ in range(100):
        opt.zero_grad()
        (model(X) - 5.0).square().mean().backward()
        opt.step()
    assert float((model.readout.bias - before).detach().abs().max()) > 1e-3


def test_small_sizes_that_are_certain_are_believed() -> None:
    """A gate that begins nearly shut, and features of normal size."""
    for kernel in (lambda y, c: torch.sigmoid(y @ c.T - 10), lambda y, c: torch.exp(-squared(y, c) / 8)):
        assert not said(planned(kernel)[1])
    assert not said(planned(FAR["gaussian"][0], recipe="modula", options={"gains": "modula"})[1])


def test_no_row_s_step_vanishes_beside_the_others_and_the_plan_names_it() -> None:
    """A product of 24 sigmoids is 1e-7: so would be the steps of what is added to the output behind it."""
    _, plan = planned(lambda y, c: torch.sigmoid(y[:, None] * c).prod(-1), 24)
    row = plan["readout.bias"]
    assert row.mass is not None and row.target > 1e-4 * row.mass
    assert all(other.target > 0.1 * (other.mass or 0) for other in plan if other.name != "readout.bias")
    assert any("unit step of readout.bias would move" in note for note in plan.notes)
    muon = planned(lambda y, c: torch.sigmoid(y[:, None] * c).prod(-1), 24, recipe="muon")[1]
    assert not any("unit step" in note for note in muon.notes)
