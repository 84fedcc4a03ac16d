"""Muon's dialects and NorMuon over 50 steps, against torch, pytorch_optimizer, and loops written from the papers.

Others run Newton-Schulz in bf16; here they run it in the weights' dtype, so that both are the same computation. What is
left is rounding: up to 1e-14 in float64, 2e-6 in float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.errors import NormcError
from normc.recipe.by_name import recipes
from normc.recipe.stages.moments import HeavyBall, Nesterov
from normc.recipe.stages.norm import Lmo
from normc.update.ops.matrices import polar
from normc.update.polynomials.by_name import KELLER
from tests.beside import Named, apart, beside_adamw, orthogonal, shares
from tests.handmade import draft, plan_of

TOLERANCES = [(torch.float64, 1e-14), (torch.float32, 2e-6)]


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_muon_equals_torch(dtype: torch.dtype, tolerance: float, adjust: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)

    def originals(named: Named) -> list[Any]:
        hidden, rest = shares(named)
        return [torch.optim.Muon(hidden, 5e-3, adjust_lr_fn=adjust), torch.optim.AdamW(rest, 5e-3)]

    assert apart(dtype, "muon", originals, 5e-3, {"adjust_lr": adjust}) <= tolerance


PACKAGE: list[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("Muon", "muon", {"dialect": "keller"}, {}, {}),
    ("Muon", "muon", {"dialect": "moonlight"}, {"weight_decay": 0.0, "eps": 1e-10}, {"use_adjusted_lr": True}),
    ("NorMuon", "normuon", {}, {}, {}),
    ("NorMuon", "normuon", {"update_scale": "match_rms"}, {}, {"update_scale": "match_rms"}),
]


@pytest.mark.parametrize(("original", "recipe", "options", "values", "theirs"), PACKAGE)
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_dialects_and_normuon_equal_the_package(
    dtype: torch.dtype,
    tolerance: float,
    original: str,
    recipe: str,
    options: dict[str, Any],
    values: dict[str, Any],
    theirs: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = pytest.importorskip("pytorch_optimizer")
    from pytorch_optimizer.optimizer.muon import base, normuon

    wide = functools.partial(base.zero_power_via_newton_schulz_5, dtype=dtype)
    for module in (base, normuon):
        monkeypatch.setattr(module, "zero_power_via_newton_schulz_5", wide)

    def originals(named: Named) -> list[Any]:
        hidden, rest = shares(named)
        matrices = {"params": hidden, "use_muon": True, "lr": 5e-3, **theirs}
        return [getattr(package, original)([matrices, {"params": rest, "use_muon": False, "lr": 5e-3, "eps": 1e-10}])]

    assert apart(dtype, recipe, originals, 5e-3, options, values) <= tolerance


class Moonlight:
    """From arXiv 2502.16982: m = mu m + g, a step of U V^T of g + mu m times .2 sqrt(max(o, i)), decay before it."""

    def __init__(self, hidden: list[nn.Parameter], lr: float, decay: float) -> None:
        self.hidden, self.lr, self.decay = hidden, lr, decay
        self.sums = [torch.zeros_like(w) for w in hidden]

    @torch.no_grad()
    def step(self) -> None:
        for w, m in zip(self.hidden, self.sums, strict=True):
            assert w.grad is not None
            m.mul_(0.95).add_(w.grad)
            x = orthogonal(w.grad + 0.95 * m)
            w.mul_(1 - self.lr * self.decay).sub_(0.2 * math.sqrt(max(w.shape)) * self.lr * x)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_moonlight_equals_the_paper(dtype: torch.dtype, tolerance: float) -> None:
    """With its sums of gradients, which normc averages."""
    originals = beside_adamw(lambda hidden: Moonlight(hidden, 5e-3, 0.1), 5e-3, decay=0.1)
    assert apart(dtype, "muon", originals, 5e-3, {"dialect": "moonlight"}) <= tolerance


def gradients(shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Fifty random gradients."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        yield torch.randn(shape, generator=generator, dtype=torch.float64)


def test_a_sum_of_gradients_steps_as_their_average_does() -> None:
    """Sum and average, each looked at one step ahead, in front of Newton-Schulz: within 1e-14."""
    from normc.recipe.stages.build import chain_of
    from normc.update.program.program import evaluate

    (row,) = plan_of([draft("w", (6, 4), "hidden", dtype="float64")], "muon").rows
    chains = [chain_of(row, (moment, Lmo((KELLER,) * 5))) for moment in (HeavyBall(nesterov=True), Nesterov())]
    states = [torch.zeros(1, 6, 4, dtype=torch.float64) for _ in chains]
    for g in gradients((1, 6, 4)):
        steps = []
        for index, graph in enumerate(chains):
            inputs = {"w": g, "g": g, "momentum_buffer": states[index], "momentum": 0.95}
            (states[index],) = evaluate(graph, inputs)[1:]
            d = g + 0.95 * states[index] if index == 0 else g.lerp(states[index], 0.95)
            steps.append(polar(d, (KELLER,) * 5))
        torch.testing.assert_close(*steps, atol=1e-14, rtol=0)


def test_spectral_steps_have_the_same_norm_from_rms_to_rms() -> None:
    for shape in ((64, 16), (16, 64)):
        (row,) = plan_of([draft("w", shape, "hidden")], "muon", dialect="spectral").rows
        assert row.scale.value == pytest.approx(math.sqrt(shape[0] / shape[1]))


def test_dialects_set_the_values_of_groups_and_unknown_ones_are_refused() -> None:
    w = nn.Parameter(torch.zeros(4, 3))
    rows = [draft("w", (4, 3), "hidden"), draft("b", (4,), "bias")]
    opt = build(plan_of(rows, "muon", dialect="moonlight"), [("w", w), ("b", nn.Parameter(torch.zeros(4)))], lr=0.1)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.1, 0.1]
    assert opt.param_groups[1]["beta2"] == 0.95
    with pytest.raises(NormcError, match="torch, keller, moonlight, spectral"):
        recipes["muon"].configure(dialect="other")
    with pytest.raises(NormcError, match="preserve_norm, match_rms"):
        plan_of([draft("w", (4, 3), "hidden")], "normuon", update_scale="other")


def test_normuon_keeps_a_number_for_each_neuron() -> None:
    (row,) = plan_of([draft("w", (8, 4), "hidden")], "normuon").rows
    assert row.state_bytes == 4 * (32 + 8)
