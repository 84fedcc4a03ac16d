"""What torch's own tests ask of state_dicts, copies and pickles, recipe by recipe."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from normc.errors import NormcError
from tests.optimizer.like_torch.problem import RECIPES, made, run, same


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_state_dict_goes_on_alike_also_out_of_a_file(recipe: str) -> None:
    model, opt = made(recipe)
    run(model, opt)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    assert same(read["state"], opt.state_dict()["state"])
    pairs = [made(recipe), made(recipe)]
    # torch's optimizers too go on with the tensors that they are given
    for (other, fresh), state in zip(pairs, (copy.deepcopy(opt.state_dict()), read), strict=True):
        other.load_state_dict(model.state_dict())
        fresh.load_state_dict(state)
        assert fresh.state_dict()["param_groups"] == opt.state_dict()["param_groups"]
    expected = run(model, opt)
    assert all(torch.equal(run(*pair), expected) for pair in pairs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_nameless_state_dict_is_refused(recipe: str) -> None:
    """torch matches by place; here a name is what says that a state is a parameter's own."""
    model, opt = made(recipe)
    run(model, opt)
    state = copy.deepcopy(opt.state_dict())
    for group in state["param_groups"]:
        del group["param_names"]
    _, fresh = made(recipe)
    with pytest.raises(NormcError, match="fix: "):
        fresh.load_state_dict(state)


@pytest.mark.parametrize("recipe", ["adamw", "muon", "adafactor", "soap"])
def test_counts_of_steps_may_be_numbers(recipe: str) -> None:
    """As in checkpoints of torch's older versions."""
    model, opt = made(recipe)
    run(model, opt)
    state = copy.deepcopy(opt.state_dict())
    counted = [own for own in state["state"].values() if "step" in own]
    for own in counted:
        own["step"] = float(own["step"])
    assert counted
    other, fresh = made(recipe)
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(state)
    assert torch.equal(run(model, opt), run(other, fresh))


@pytest.mark.parametrize("recipe", RECIPES)
def test_copies_and_pickles_have_all_public_attributes(recipe: str) -> None:
    model, opt = made(recipe)
    run(model, opt)

    def public(own: object) -> set[str]:
        return {name for name in vars(own) if not name.startswith("_")}

    for again in (copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))):
        assert public(again[1]) == public(opt)
        assert same(again[1].state_dict()["state"], opt.state_dict()["state"])
    again = copy.deepcopy((model, opt))
    assert torch.equal(run(*again), run(model, opt))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_makes_state(recipe: str) -> None:
    """For each parameter, but for a recipe whose gradients are its state."""
    model, opt = made(recipe)
    run(model, opt, 1)
    states = opt.state_dict()["state"]
    assert len(states) == 2
    assert all(states.values())
