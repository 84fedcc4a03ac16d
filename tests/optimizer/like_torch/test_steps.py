"""What torch's own tests ask of an optimizer's steps, recipe by recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from normc.optimizer import Optimizer
from tests.optimizer.like_torch.problem import DECAYING, RECIPES, closing, made, run, weights


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_goes_down(recipe: str) -> None:
    model, opt = made(recipe, lr=1e-2)
    first = float(model())
    run(model, opt, 20)
    assert float(model()) < first


SCHEDULES: dict[str, list[Callable[[Optimizer], Any]]] = {
    "step": [lambda opt: lr_scheduler.StepLR(opt, step_size=10, gamma=0.9)],
    "step and plateau": [
        lambda opt: lr_scheduler.StepLR(opt, step_size=10, gamma=0.9),
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt),
    ],
    "linear": [lambda opt: lr_scheduler.LinearLR(opt, start_factor=0.4, total_iters=4)],
    "constant": [lambda opt: lr_scheduler.ConstantLR(opt, factor=0.4, total_iters=4)],
    "polynomial": [lambda opt: lr_scheduler.PolynomialLR(opt, power=0.9, total_iters=40)],
    "step, exponential and plateau": [
        lambda opt: lr_scheduler.StepLR(opt, step_size=10, gamma=0.99),
        lambda opt: lr_scheduler.ExponentialLR(opt, gamma=0.99),
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt),
    ],
    "one cycle": [lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=40)],
    "cosine": [lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=12)],
}


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("recipe", ["auto", "muon", "scion", "adamw"])
def test_it_goes_down_under_torchs_schedulers(recipe: str, schedule: str) -> None:
    model, opt = made(recipe, lr=1e-2)
    first = float(model())
    schedulers = [make(opt) for make in SCHEDULES[schedule]]
    rates = []
    for _ in range(20):
        loss = opt.step(closing(model, opt))
        for scheduler in schedulers:
            scheduler.step(*([loss] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        rates.append({group["lr"] for group in opt.param_groups})
    assert float(model()) < first
    assert all(len(own) == 1 for own in rates)
    assert len(set.union(*rates)) > 1


@pytest.mark.parametrize("lr", [torch.tensor(1e-2), torch.tensor([1e-2]), torch.tensor([[1e-2]])], ids=["0", "1", "2"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_tensor_lr_is_a_float_lr(recipe: str, lr: torch.Tensor) -> None:
    by_float, by_tensor = run(*made(recipe, lr=float(lr))), run(*made(recipe, lr=lr))
    torch.testing.assert_close(by_tensor, by_float, rtol=0, atol=1e-6)
    assert lr.flatten().tolist() == [pytest.approx(1e-2)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_groups_have_an_lr_each(recipe: str) -> None:
    for still in range(len(made(recipe)[1].param_groups)):
        model, opt = made(recipe)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        opt.param_groups[still]["lr"] = 0.0
        run(model, opt)
        for place, group in enumerate(opt.param_groups):
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                assert torch.equal(parameter, before[name]) is (place == still)


@pytest.mark.parametrize("recipe", DECAYING)
def test_groups_have_a_decay_each(recipe: str) -> None:
    """torch's: what decays ends smaller than what doesn't, whatever the gradient does."""
    ends = []
    for decay in (0.0, 30.0):
        model, opt = made(recipe)
        for group in opt.param_groups:
            group["weight_decay"] = decay if "weight" in group["param_names"] else 0.0
        run(model, opt, 6)
        ends.append((float(model.weight.norm()), float(model.bias.norm())))
    assert ends[1][0] < ends[0][0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_gradients_nothing_moves(recipe: str) -> None:
    model, opt = made(recipe)
    before = weights(model)
    opt.step()
    assert torch.equal(weights(model), before)
    assert not opt.state


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_of_zeros_move_nothing(recipe: str) -> None:
    """Without decay. A recipe whose weights live in a ball moves them towards it, by decay in all but name."""
    model, opt = made(recipe, **({"weight_decay": 0.0} if recipe in DECAYING else {}))
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    opt.step()
    expected = before * (1 - 1e-3) if recipe in ("scion", "scion-light") else before
    torch.testing.assert_close(weights(model), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_closure_is_called_once_and_its_loss_comes_back(recipe: str) -> None:
    model, opt = made(recipe)
    called: list[torch.Tensor] = []

    def closure() -> torch.Tensor:
        called.append(closing(model, opt)())
        return called[-1]

    with torch.no_grad():
        loss = opt.step(closure)
        assert not torch.is_grad_enabled()
    assert len(called) == 1
    assert loss is called[0]
    assert loss.requires_grad
