"""`scion-light` in bf16: weights and averages in `.grad` are all that there is."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import normc
from normc.compiler import build
from normc.optimizer import Optimizer
from tests.handmade import draft, plan_of
from tests.optimizer.test_codes import patterns

HOW: dict[str, Any] = {"recipe": "scion-light", "lr": 0.02, "compile": False, "backend": "cpu:fp32"}


def made(dtype: torch.dtype, **options: Any) -> tuple[nn.Module, Optimizer, Tensor, Tensor]:
    model, pictures, labels = patterns(0)
    model, pictures = model.to(dtype), pictures.to(dtype)
    return model, normc.compile(model, pictures[:2], **{**HOW, **options}), pictures, labels


def train(
    model: nn.Module, opt: Optimizer, pictures: Tensor, labels: Tensor, steps: int, first: int = 0, order: int = 0
) -> float:
    """Plain steps without zero_grad; the loss on all pictures."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(1000 * order + step)
        batch = torch.randint(0, 512, (64,), generator=generator)
        nn.functional.cross_entropy(model(pictures[batch]).float(), labels[batch]).backward()
        opt.step()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(pictures).float(), labels))


def test_it_keeps_weights_and_averages_in_bf16_and_nothing_else() -> None:
    model, opt, *data = made(torch.bfloat16, stochastic_rounding=True)
    train(model, opt, *data, 3)
    assert not opt.state
    assert opt.plan.state_bytes == 0
    held = [parameter.grad for parameter in model.parameters()]
    assert {None if grad is None else grad.dtype for grad in held} == {torch.bfloat16}
    before = [parameter.grad for parameter in model.parameters()]
    train(model, opt, *data, 1, 3)
    assert all(parameter.grad is grad for parameter, grad in zip(model.parameters(), before, strict=True))


def test_it_learns_as_in_float32() -> None:
    """200 steps with stochastic rounding end where those in float32 end, within what the order of batches makes of it.
    Rounded to the nearest, weights lose small steps, and the last loss is about twice that.
    """
    wide = [train(*made(torch.float32), 200, order=order) for order in range(3)]
    narrow = [train(*made(torch.bfloat16, stochastic_rounding=True), 200, order=order) for order in range(3)]
    model, _, pictures, labels = made(torch.float32)
    with torch.no_grad():
        start = float(nn.functional.cross_entropy(model(pictures), labels))
    assert max(wide) < 0.05 * start
    apart = sum(narrow) / 3 - sum(wide) / 3
    assert abs(apart) < 3 * float(torch.tensor(wide).std()), (wide, narrow)


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
    model, opt, *data = made(torch.bfloat16, stochastic_rounding=True)
    train(model, opt, *data, 3)
    again, other, *_ = made(torch.bfloat16, stochastic_rounding=True)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    for one, own in ((model, opt), (again, other)):
        train(one, own, *data, 3, 3)
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.grad is not None and two.grad is not None
        assert torch.equal(one.grad, two.grad)
