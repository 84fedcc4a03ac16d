"""States of parameters that lie over ranks: saved by some ranks, loaded by others, or by one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_states

import normc
from tests.distributed.models import IDS, Small, give, gradients, lay_out, optimizer, whole
from tests.distributed.world import on_ranks

RECIPES = ["auto", "soap", "adamw", "normuon"]
BEFORE, AFTER = 3, 2


def made(recipe: str, layout: str | None) -> tuple[nn.Module, dict[str, Tensor], normc.Optimizer]:
    model = Small()
    plan = normc.plan(model, IDS, recipe=recipe)
    members = lay_out(model, layout)
    return model, members, optimizer(model, plan)


def train(members: dict[str, Tensor], opt: normc.Optimizer, steps: range) -> None:
    for step in steps:
        give(members, gradients(Small(), step))
        opt.step()


def ends(members: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(parameter) for name, parameter in members.items()}


def save(recipe: str, layout: str, folder: Path) -> dict[str, Tensor]:
    """Train, save in the middle, train on; return where that ends."""
    model, members, opt = made(recipe, layout)
    train(members, opt, range(BEFORE))
    states = get_state_dict(model, opt)
    save_states({"model": states[0], "optimizer": states[1]}, checkpoint_id=str(folder))
    train(members, opt, range(BEFORE, BEFORE + AFTER))
    return ends(members)


def resume(recipe: str, layout: str | None, folder: Path) -> dict[str, Tensor]:
    """Load what `save` wrote into a model that lies in another way, and train on."""
    model, members, opt = made(recipe, layout)
    states = get_state_dict(model, opt)
    given: dict[str, Any] = {"model": states[0], "optimizer": states[1]}
    load(given, checkpoint_id=str(folder))
    set_state_dict(model, opt, model_state_dict=given["model"], optim_state_dict=given["optimizer"])
    train(members, opt, range(BEFORE, BEFORE + AFTER))
    return ends(members)


def saved(folder: Path, layout: str) -> dict[str, dict[str, Tensor]]:
    return {recipe: save(recipe, layout, folder / recipe) for recipe in RECIPES}


def resumed(folder: Path, layout: str | None) -> dict[str, dict[str, Tensor]]:
    return {recipe: resume(recipe, layout, folder / recipe) for recipe in RECIPES}


def plainly(recipe: str, folder: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same with torch.save, a file a rank."""
    model, members, opt = made(recipe, "rows")
    train(members, opt, range(BEFORE))
    path = f"{folder}/{recipe}-{torch.distributed.get_rank()}"
    torch.save((opt.state_dict(), model.state_dict()), path)
    train(members, opt, range(BEFORE, BEFORE + AFTER))
    again, others, new = made(recipe, "rows")
    states, weights = torch.load(path, weights_only=False)
    new.load_state_dict(states)
    again.load_state_dict(weights)
    train(others, new, range(BEFORE, BEFORE + AFTER))
    return ends(members), ends(others)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_other_ranks_go_on_where_some_stopped(tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    expected = on_ranks(4, tmp_path, saved, tmp_path / "states", "rows")[0]
    for found in on_ranks(2, tmp_path, resumed, tmp_path / "states", "columns"):
        assert all(same(found[recipe], expected[recipe]) for recipe in RECIPES)
    alone = on_ranks(1, tmp_path, resumed, tmp_path / "states", None)[0]
    assert all(same(alone[recipe], expected[recipe]) for recipe in RECIPES)


def by_two(folder: Path) -> tuple[dict[str, bool], bool]:
    """Of each recipe whether a file a rank is enough; and whether shards of columns go on where rows stopped."""
    plain = {recipe: same(*plainly(recipe, str(folder))) for recipe in ("auto", "normuon")}
    expected = save("soap", "rows", folder / "states")
    return plain, same(resume("soap", "columns", folder / "states"), expected)


def test_two_ranks_go_on_where_they_stopped(tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path, by_two, tmp_path) == [({"auto": True, "normuon": True}, True)] * 2
