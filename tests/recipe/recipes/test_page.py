"""The code on docs/recipes.md runs, and does what the page says of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import normc
from normc.recipe.by_name import recipes
from normc.recipe.mixed import spelled
from tests.house.tree import ROOT
from tests.recipe.recipes.tiny import loss, made, tokens

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's code leaves behind; the recipe that it adds is forgotten again."""
    list(recipes)
    for own in ("_parts", "_homes"):
        monkeypatch.setattr(recipes, own, dict(getattr(recipes, own)))
    space: dict[str, Any] = {
        "normc": normc,
        "model": made(),
        "inputs": tokens(0)[:, :-1],
        "__name__": "page",
        "opts": [],
    }
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(code, "docs/recipes.md", "exec"), space)  # the page's own code
        space["opts"].append(space["opt"])
    return space


def test_the_code_on_the_page_runs(shown: dict[str, Any]) -> None:
    one, mixed, own = shown["opts"]
    assert dict(one.plan.options) == shown["options"]
    assert [group["weight_decay"] for group in one.param_groups] == [0.1, 0.0]
    assert spelled(shown["recipe"]) == mixed.plan.recipe == "muon, output=adamw, tok.*=lion"
    assert spelled(shown["recipe"]) in PAGE
    assert [group["lr"] for group in mixed.param_groups] == [0.02, 0.02, 3e-4, 1e-4]
    assert own.plan.recipe == "clipped-adam"


def test_the_recipe_on_the_page_clips_its_steps(shown: dict[str, Any]) -> None:
    model: nn.Module = made()
    opt = normc.compile(model, tokens(0)[:, :-1], recipe="clipped-adam", options={"clip": 0.25}, lr=0.1, compile=False)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    loss(model, 0).backward()
    opt.step()
    for name, weight in model.named_parameters():
        step = (before[name] - weight.detach()) / 0.1
        assert float(step.square().mean().sqrt()) == pytest.approx(0.25, rel=1e-4)
        assert weight.grad is not None
        assert torch.equal(step.sign(), weight.grad.sign())


def test_every_recipe_that_the_page_names_is_one() -> None:
    table = PAGE.split("## Choosing one")[1].split("```")[0]
    for name in re.findall(r"`([a-z][a-z0-9-]+)`", table):
        assert name in {*recipes, *recipes.aliases, "momentum", "eps", "beta2", "options", "groups"}, name
