"""Default learning rates: a recipe's own, torch's where it is torch's, and an error where there is none."""

from __future__ import annotations

import inspect
from typing import ClassVar

import pytest
import torch
from torch import nn

import normc
from normc.compiler import build, defer
from normc.recipe.by_name import recipes
from normc.recipe.rates import default_lr
from normc.recipe.recipes.adam import AdamW

TORCH = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "muon": torch.optim.Muon,
    "adafactor": torch.optim.Adafactor,
}


def model() -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("name", sorted(recipes))
def test_every_recipe_has_a_rate_or_says_that_it_has_none(name: str) -> None:
    recipe, inputs = recipes[name], torch.zeros(2, 4)
    if name in TORCH:
        assert default_lr(recipe) == inspect.signature(TORCH[name]).parameters["lr"].default
    if name in TORCH or recipe.lr is not None:
        opt = normc.compile(model(), inputs, recipe=name, compile=False)
        assert {group["lr"] for group in opt.param_groups} == {default_lr(recipe)}
        return
    message = rf"the recipe {name} has no default lr\n  fix: give one: lr="
    for given in (inputs, None):
        with pytest.raises(normc.NormcError, match=message):
            normc.compile(model(), given, recipe=name, compile=False)
    plan = normc.plan(model(), inputs, recipe=name)
    with pytest.raises(normc.NormcError, match=message):
        normc.compile(model(), plan=plan, compile=False)


def test_the_whole_call() -> None:
    lr = recipes["auto"].lr
    assert lr is not None
    net = model()
    opt = normc.compile(net, compile=False)
    assert [group["lr"] for group in opt.param_groups] == [lr, lr]
    net(torch.randn(2, 4)).square().mean().backward()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    opt.step()
    assert not any(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
    plan = normc.plan(model(), torch.zeros(2, 4))
    assert build(plan, model().named_parameters(), compile=False).param_groups[0]["lr"] == lr
    assert defer(recipes["auto"], model().named_parameters()).param_groups[1]["lr"] == lr


def test_of_several_recipes_each_has_its_own() -> None:
    opt = normc.compile(model(), torch.zeros(2, 4), recipe="auto, output=adamw", compile=False)
    assert [group["lr"] for group in opt.param_groups] == [recipes["auto"].lr] * 2 + [1e-3] * 2
    with pytest.raises(normc.NormcError, match=r'lion in .* no default lr\n  fix: give lr=\{"adamw": 0\.001, "lion": '):
        normc.compile(model(), torch.zeros(2, 4), recipe="adamw, output=lion", compile=False)


def test_another_dialect_isnt_torchs() -> None:
    for name, options in (("muon", {"dialect": "moonlight"}), ("adafactor", {"variant": "paper"})):
        with pytest.raises(normc.NormcError, match="no default lr"):
            normc.compile(model(), torch.zeros(2, 4), recipe=name, options=options, compile=False)
    assert default_lr(recipes["muon"].configure(ns_steps=6)) == 1e-3


def test_a_rate_isnt_inherited_and_can_be_said() -> None:
    class Silent(AdamW):
        name: ClassVar[str] = "silent"

    class Said(AdamW):
        name: ClassVar[str] = "said"
        lr: ClassVar[float | None] = 3e-4

    class Later(Said):
        name: ClassVar[str] = "later"

    assert (Silent.lr, Said.lr, Later.lr, recipes["modula"].lr) == (None, 3e-4, None, None)
    assert default_lr(Said()) == 3e-4
    with pytest.raises(normc.NormcError, match="the recipe later has no default lr"):
        default_lr(Later())
