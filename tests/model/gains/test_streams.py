"""Sensitivities of whole networks: the laws that hold for them, whatever their depth (THEORY A'1, A'2)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc.plans.row import Row


class Stream(nn.Module):
    """A residual stream, normed before each branch or after, with branches x c."""

    def __init__(self, depth: int, *, post: bool = False, multiplier: float = 1.0, by_hand: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.branches = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(depth))
        self.post, self.multiplier, self.by_hand = post, multiplier, by_hand

    def norm(self, x: Tensor) -> Tensor:
        """RMS norm without a gain, fused or spelled out."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) if self.by_hand else F.rms_norm(x, (16,))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 16]."""
        x = self.stem(x)
        for branch in self.branches:
            x = self.norm(x + branch(x)) if self.post else x + self.multiplier * branch(self.norm(x))
        out: Tensor = self.head(self.norm(x))
        return out


def rows(model: nn.Module, inputs: Tensor) -> Mapping[str, Row]:
    """Rows of the plan, by name."""
    return {row.name: row for row in normc.plan(model, inputs).rows}


def sensitivity(row: Row) -> float:
    """A known sensitivity."""
    assert row.sensitivity is not None
    return row.sensitivity


@pytest.mark.parametrize("by_hand", [False, True], ids=["fused", "spelled out"])
@pytest.mark.parametrize("depth", [1, 4, 24])
def test_a_pre_norm_stream_telescopes(depth: int, by_hand: bool) -> None:
    """r grows as sqrt(1 + l), and S after l branches is 1 / r_l: no exponential."""
    found = rows(Stream(depth, by_hand=by_hand), torch.randn(3, 16))
    tolerance = 0.08 if by_hand else 1e-9  # spelled out, the paths through the mean square of 16 entries count too
    assert sensitivity(found["stem.weight"]) == pytest.approx(1.0, rel=tolerance * depth)
    for layer in range(depth):
        size = math.sqrt(2 + layer)
        assert sensitivity(found[f"branches.{layer}.weight"]) == pytest.approx(1 / size, rel=tolerance * depth)
        assert found[f"branches.{layer}.weight"].magnitude == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("depth", [1, 4, 24])
def test_a_post_norm_stream_has_no_exponential_either(depth: int) -> None:
    """Each layer halves the square and doubles it again: (1 + 1) / 2."""
    found = rows(Stream(depth, post=True), torch.randn(3, 16))
    for layer in range(depth):
        assert sensitivity(found[f"branches.{layer}.weight"]) == pytest.approx(2**-0.5, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("depth", [4, 16, 64])
def test_residual_multipliers_give_completep_s_exponent(alpha: float, depth: int) -> None:
    """With branches times L^-alpha, mass / S goes as L^(alpha - 1) r (THEORY A'2)."""
    found = rows(Stream(depth, multiplier=depth**-alpha), torch.randn(3, 16))
    for layer in range(depth):
        row = found[f"branches.{layer}.weight"]
        size = math.sqrt(1 + (layer + 1) * depth ** (-2 * alpha))
        assert row.mass == pytest.approx(5 / 7 / depth)
        assert sensitivity(row) == pytest.approx(depth**-alpha / size, rel=1e-9)


class Unknown(nn.Module):
    """An op that can't be tried out lies behind the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 16]."""
        out: Tensor = self.last(torch.linalg.cholesky(self.first(x)))
        return out


def test_what_is_unknown_is_said_and_never_one() -> None:
    found = rows(Unknown(), torch.randn(16, 16))
    assert found["first.weight"].sensitivity is None and found["first.weight"].magnitude is None
    claims = [e for e in found["first.weight"].evidence if e.fact == "sensitivity"]
    assert claims[0].claim == "unknown" and "linalg_cholesky" in claims[0].reason


class TriedOut(nn.Module):
    """An op without a rule that can be run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 16]."""
        out: Tensor = self.last(torch.cumsum(self.first(x), dim=-1))
        return out


def test_an_op_without_a_rule_is_tried_out_and_the_plan_says_so() -> None:
    plan = normc.plan(TriedOut(), torch.randn(512, 16))
    expected = math.sqrt(sum(range(1, 17)) / 16)  # entry i sums i + 1 independent ones
    assert plan["first.weight"].sensitivity == pytest.approx(expected, rel=0.05)
    assert plan["last.weight"].magnitude == pytest.approx(expected, rel=0.05)
    assert any("aten.cumsum" in note for note in plan.notes)
