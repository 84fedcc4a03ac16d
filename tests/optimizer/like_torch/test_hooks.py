"""What torch's own tests ask of its optimizers' hooks, recipe by recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tests.optimizer.like_torch.problem import RECIPES, made, run


@pytest.mark.parametrize("recipe", RECIPES)
def test_hooks_of_steps(recipe: str) -> None:
    """Global ones before an optimizer's own; all are taken off by their handles, and keep the step what it is."""
    plain = run(*made(recipe), steps=1)
    model, opt = made(recipe)
    called: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        def hook(given: Any, args: Any, kwargs: Any) -> None:
            assert given is opt
            called.append(name)

        return hook

    handles = [
        register_optimizer_step_pre_hook(noting("all before")),
        opt.register_step_pre_hook(noting("before")),
        opt.register_step_post_hook(noting("after")),
        register_optimizer_step_post_hook(noting("all after")),
    ]
    try:
        assert torch.equal(run(model, opt, 1), plain)
        assert called == ["all before", "before", "after", "all after"]
    finally:
        for handle in handles:
            handle.remove()
    run(model, opt, 1)
    assert len(called) == 4


@pytest.mark.parametrize("recipe", RECIPES)
def test_hooks_of_state_dicts(recipe: str) -> None:
    model, opt = made(recipe)
    run(model, opt)
    called: list[str] = []

    def after(given: Any, state: dict[str, Any]) -> dict[str, Any]:
        called.append("after")
        return {**state, "ran": True}

    first = opt.register_state_dict_pre_hook(lambda given: called.append("before"))
    second = opt.register_state_dict_post_hook(after)
    assert opt.state_dict()["ran"] is True
    assert called == ["before", "after"]
    first.remove()
    second.remove()
    assert "ran" not in opt.state_dict()
    assert called == ["before", "after"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_hooks_of_loading(recipe: str) -> None:
    model, opt = made(recipe)
    run(model, opt)
    state = opt.state_dict()
    called: list[str] = []

    def before(given: Any, read: dict[str, Any]) -> dict[str, Any]:
        called.append("before")
        groups = [{**group, "lr": 0.5} for group in read["param_groups"]]
        return {**read, "param_groups": groups}

    opt.register_load_state_dict_pre_hook(before)
    opt.register_load_state_dict_pre_hook(lambda given, read: called.append("first"), prepend=True)
    opt.register_load_state_dict_post_hook(lambda given: called.append("after"))
    opt.register_load_state_dict_post_hook(lambda given: called.append("sooner"), prepend=True)
    opt.load_state_dict(state)
    assert called == ["first", "before", "sooner", "after"]
    assert {group["lr"] for group in opt.param_groups} == {0.5}
