"""Models edited after they were planned: followed where the plan has what that needs, else an error says so."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import normc
from normc.errors import NormcError, NormcWarning
from tests.optimizer.test_refusals import CPU, X, net

pytestmark = pytest.mark.usefixtures("updates_once")

DATA = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
FEW = ("auto", "muon", "adamw", "soap", "scion-light")


def trained(model: nn.Module, opt: Any, steps: int, by: str = "optimizer") -> None:
    for _ in range(steps):
        (opt if by == "optimizer" else model).zero_grad()
        model(DATA).square().mean().backward()
        opt.step()


def made(recipe: str = "adamw") -> tuple[Any, Any]:
    model = net()
    return model, normc.compile(model, X, lr=0.01, recipe=recipe, **CPU)


@pytest.mark.parametrize("by", ["optimizer", "model"])
@pytest.mark.parametrize("recipe", ["auto", "muon", "adamw", "soap"])
def test_a_parameter_of_the_same_shape_in_anothers_place_is_followed(recipe: str, by: str) -> None:
    model, opt = made(recipe)
    trained(model, opt, 2, by)
    old = model[2].weight
    kept = opt.state[old]
    model[2].weight = nn.Parameter(old.detach().clone())
    before = old.detach().clone()
    with pytest.warns(NormcWarning, match="1 parameters of the model were replaced"):
        trained(model, opt, 6, by)
    assert not torch.equal(model[2].weight, before)
    assert opt.state[model[2].weight] is kept
    assert old not in opt.state
    assert sum(len(group["params"]) for group in opt.param_groups) == 6


def test_a_model_that_was_on_meta_is_followed() -> None:
    with torch.device("meta"):
        model = net()
    opt = normc.compile(model, torch.zeros(2, 6, device="meta"), lr=0.01, recipe="adamw", **CPU)
    model.to_empty(device="cpu")
    for own in model.parameters():
        nn.init.normal_(own, std=0.1)
    before = copy.deepcopy(list(model.parameters()))
    with pytest.warns(NormcWarning, match="6 parameters of the model were replaced"):
        trained(model, opt, 2)
    assert not any(map(torch.equal, model.parameters(), before))


class Grown(nn.Linear):
    """A layer with an adapter beside it."""

    def __init__(self, old: nn.Linear) -> None:
        super().__init__(old.in_features, old.out_features)
        self.weight, self.bias = old.weight, old.bias
        self.down = nn.Parameter(torch.randn(2, old.in_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (x @ self.down.T).sum(-1, keepdim=True)


def adapter(model: Any) -> None:
    for own in model.parameters():
        own.requires_grad_(False)
    model[2] = Grown(model[2])


def resized(model: nn.Sequential) -> None:
    model[4] = nn.Linear(8, 5)


def tied(model: nn.Sequential) -> None:
    model[4].weight = nn.Parameter(torch.randn(8, 8))
    model[4].bias = nn.Parameter(torch.randn(8))
    model[4].weight = model[2].weight


EDITS: dict[str, Callable[[nn.Sequential], None]] = {
    "'2.down' has a gradient, but wasn't in the model": adapter,
    r"'4.weight' is \(5, 8\) now": resized,
    "'4.weight' is now '2.weight'": tied,
}


@pytest.mark.parametrize("said", EDITS)
@pytest.mark.parametrize("recipe", FEW[:4])
def test_what_the_plan_has_no_row_for_is_refused(recipe: str, said: str) -> None:
    model, opt = made(recipe)
    trained(model, opt, 2)
    EDITS[said](model)
    with pytest.raises(NormcError, match=said):
        trained(model, opt, 4)


def test_a_step_that_finds_no_gradient_says_so_once() -> None:
    model, opt = made()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        opt.step()
        opt.step()
    assert [warning.category for warning in said] == [NormcWarning]
    assert "no parameter of the optimizer has a gradient" in str(said[0].message)
    assert said[0].filename == __file__
    trained(model, opt, 1)


@pytest.mark.parametrize("recipe", FEW)
def test_what_is_thawed_trains_and_nothing_is_said(recipe: str) -> None:
    model: Any = net()
    model[0].requires_grad_(False)
    opt = normc.compile(model, X, lr=0.05, recipe=recipe, **CPU)
    before = model[0].weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*never zeroes")
        warnings.filterwarnings("ignore", message="zero_grad")
        trained(model, opt, 3)
        model[0].requires_grad_(True)
        trained(model, opt, 3)
    assert not torch.equal(model[0].weight, before)
