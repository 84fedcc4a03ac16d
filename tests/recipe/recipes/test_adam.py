"""Adam, AdamW and Adam-atan2: equal to torch's, and to their closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.pipeline import program_of
from normc.recipe.stages.apply import Descend
from normc.recipe.stages.build import chain_of
from normc.recipe.stages.norm import Lmo
from normc.recipe.stages.precondition import Arctangent, Plus, Precondition, UnbiasedEma
from normc.update.program.laws import simplified
from tests.handmade import draft, plan_of
from tests.recipe.recipes.tiny import difference, loss, made, ours

DTYPES = [pytest.param(torch.float32, 2e-5, marks=pytest.mark.slow), (torch.float64, 1e-12)]
Step = Callable[[Tensor, Tensor, dict[str, Tensor], int], Tensor]


class Loop:
    """An optimizer of plain tensors: `step` gives the new weight, from a weight, its gradient, its own state and t."""

    def __init__(self, model: nn.Module, step: Step) -> None:
        self.parameters = list(model.parameters())
        self.states: list[dict[str, Tensor]] = [{} for _ in self.parameters]
        self.one, self.times = step, 0

    def step(self) -> None:
        """One step of all."""
        self.times += 1
        for parameter, state in zip(self.parameters, self.states, strict=True):
            assert parameter.grad is not None
            parameter.data = self.one(parameter.data, parameter.grad, state, self.times)

    def zero_grad(self) -> None:
        """Forget gradients."""
        for parameter in self.parameters:
            parameter.grad = None


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_fifty_steps_equal_torch(kind: str, decay: float, dtype: torch.dtype, tolerance: float) -> None:
    theirs = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    apart, moved = difference(
        made(dtype, fused=True, conv=True),
        lambda model: ours(model, kind, 2e-3, weight_decay=decay, beta2=0.95),
        lambda model: theirs(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=decay),
    )
    assert apart < tolerance
    assert moved > 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("a", "b"), [(4 / math.pi, 1.0), (1.0, 1.0), (8.0, 8.0)])
def test_fifty_steps_of_atan2_have_their_closed_form(a: float, b: float, dtype: torch.dtype, tolerance: float) -> None:
    def one(w: Tensor, g: Tensor, state: dict[str, Tensor], t: int) -> Tensor:
        m = state["m"] = 0.9 * state.get("m", torch.zeros_like(g)) + 0.1 * g
        v = state["v"] = 0.95 * state.get("v", torch.zeros_like(g)) + 0.05 * g**2
        return w * (1 - 2e-3 * 0.1) - 2e-3 * a * torch.atan2(m / (1 - 0.9**t), b * (v / (1 - 0.95**t)) ** 0.5)

    apart, moved = difference(
        made(dtype),
        lambda model: ours(model, "adam-atan2", 2e-3, {"a": a, "b": b}, weight_decay=0.1, beta2=0.95),
        lambda model: Loop(model, one),
    )
    assert apart < tolerance
    assert moved > 1e-3


@pytest.mark.parametrize("size", [1.0, 1e-12])
def test_atan2_without_averages_is_the_sign(size: float) -> None:
    """Of a gradient of any size; zero stays where it is."""
    w = nn.Parameter(torch.zeros(3, 2))
    opt = build(plan_of([draft("w", (3, 2), "hidden")], "adam-atan2"), [("w", w)], lr=0.1, compile=False, momentum=0.0)
    opt.param_groups[0]["beta2"] = 0.0
    w.grad = size * torch.tensor([[1.0, -2.0], [3.0, 0.0], [-1.0, 5.0]])
    opt.step()
    torch.testing.assert_close(w.detach(), -0.1 * w.grad.sign())


def test_atan2_of_large_numbers_is_adam() -> None:
    """a atan2(m, a sqrt(v)) = m / sqrt(v) to second order in 1 / a."""
    apart, _ = difference(
        made(torch.float64),
        lambda model: ours(model, "adam-atan2", 2e-3, {"a": 1e4, "b": 1e4}, beta2=0.95),
        lambda model: ours(model, "adamw", 2e-3, weight_decay=0.0, beta2=0.95, eps=1e-30),
    )
    assert apart < 1e-6


def test_scaling_the_loss_changes_nothing_for_atan2() -> None:
    model, other = made(torch.float64), made(torch.float64)
    for scale, own in ((1.0, model), (1e-9, other)):
        opt = ours(own, "adam-atan2", 2e-3)
        for seed in range(5):
            (scale * loss(own, seed)).backward()
            opt.step()
            opt.zero_grad()
    for x, y in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=0)


@pytest.mark.parametrize("by", [Plus(), Plus(0.5), Arctangent(4 / math.pi)])
def test_a_sign_needs_no_preconditioner(by: Plus | Arctangent) -> None:
    """sign(m / d) = sign(m): of the chain the average alone is left."""
    row = plan_of([draft("w", (6, 4), "output")], "uscion").rows[0]
    graph, found = simplified(chain_of(row, (UnbiasedEma(), Precondition(by=by), Lmo(), Descend())))
    assert any("in front of sign dropped" in law.what for law in found)
    assert [node.name for node in graph.nodes if node.meta.get("kind") == "state"] == ["exp_avg"]


def test_adam_compiles_to_one_direction() -> None:
    """Both averages and their biases in one op, as before they were stages of their own."""
    program = program_of(plan_of([draft("w", (6, 4), "hidden")], "adamw"))
    ops = [getattr(node.target, "__name__", "") for node in program.chains[0].graph.nodes if node.op == "call_function"]
    assert ops == ["count", "ema", "second_moment", "adam_direction", "constrained"]
