"""`scion-light` in bf16: weights and averages in `.grad` are all that there is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.compiler import build
from normc.optimizer import Optimizer
from tests.handmade import draft, plan_of
from tests.reading import BEFORE, read, reader


def made(dtype: torch.dtype, **options: Any) -> tuple[nn.Module, Optimizer, Tensor]:
    model, text = reader(dtype)
    example = torch.zeros(2, BEFORE, dtype=torch.long)
    how: dict[str, Any] = {"recipe": "scion-light", "lr": 0.02, "compile": False, "backend": "cpu:fp32"}
    return model, normc.compile(model, example, **{**how, **options}), text


def test_it_keeps_weights_and_averages_in_bf16_and_nothing_else() -> None:
    model, opt, text = made(torch.bfloat16, stochastic_rounding=True)
    read(model, opt, text, 3, zeroes=False)
    assert not opt.state
    assert opt.plan.state_bytes == 0
    held = [parameter.grad for parameter in model.parameters()]
    assert {None if grad is None else grad.dtype for grad in held} == {torch.bfloat16}
    read(model, opt, text, 1, 1, zeroes=False)
    assert all(parameter.grad is grad for parameter, grad in zip(model.parameters(), held, strict=True))


@pytest.mark.parametrize("stochastic", [pytest.param(False, marks=pytest.mark.slow), True])
def test_it_learns_text_as_scion_does_in_float32(stochastic: bool) -> None:
    """The mean loss after 200 steps differs by less than three deviations from one order of samples to another."""

    def loss(order: int, dtype: torch.dtype, **options: Any) -> float:
        model, opt, text = made(dtype, **options)
        return read(model, opt, text, 200, order, zeroes=opt.recipe.name == "scion")

    wide = torch.tensor([loss(order, torch.float32, recipe="scion") for order in range(3)])
    narrow = torch.tensor([loss(order, torch.bfloat16, stochastic_rounding=stochastic) for order in range(3)])
    assert float(wide.max()) < 2.0  # of 4.9 at the start
    assert abs(float(narrow.mean() - wide.mean())) < 3 * max(float(wide.std()), 0.005), (wide, narrow)


def test_the_average_in_a_narrow_gradient_is_right_to_its_rounding() -> None:
    """What backward adds and a step fades, 30 times, is within 1 % of the same in float64."""
    w = nn.Parameter(torch.zeros(64, 64, dtype=torch.bfloat16))
    plan = plan_of([draft("w", (64, 64), "hidden")], "scion-light")
    opt = build(plan, [("w", w)], lr=0.0, compile=False, stochastic_rounding=True)
    generator = torch.Generator().manual_seed(0)
    average = torch.zeros(64, 64, dtype=torch.float64)
    for _ in range(30):
        gradient = torch.randn(64, 64, generator=generator).bfloat16()
        (w * gradient).sum().backward()
        opt.step()
        average = opt.param_groups[0]["momentum"] * (average + gradient.double())
    assert w.grad is not None
    assert float((w.grad.double() - average).norm() / average.norm()) < 0.01


def test_resuming_is_bit_equal() -> None:
    model, opt, text = made(torch.bfloat16, stochastic_rounding=True)
    read(model, opt, text, 3, zeroes=False)
    again, other, _ = made(torch.bfloat16, stochastic_rounding=True)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    for reading, own in ((model, opt), (again, other)):
        read(reading, own, text, 3, 1, zeroes=False)
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.grad is not None and two.grad is not None
        assert torch.equal(one.grad, two.grad)
