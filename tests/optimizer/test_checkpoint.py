"""Checkpoints: bit-equal resume, matched by name, refused under another plan."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch

from normc.compiler import build, defer
from normc.errors import NormcError
from normc.recipe.by_name import recipes
from tests.handmade import Small, draft, plan_of, small_rows, train
from tests.optimizer.test_step import made, weights

pytestmark = pytest.mark.usefixtures("updates_once")


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    """As torch.save and a weights-only load leave it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("recipe", list(recipes))
def test_resume_is_bit_equal(recipe: str) -> None:
    model, opt = made(recipe)
    train(model, [opt], 8)
    half, first = made(recipe)
    train(half, [first], 4)
    saved = through_file(first.state_dict())
    _, second = made(recipe, lr=0.5)
    later = build(second.plan, half.named_parameters(), lr=0.5, compile=False)
    later.load_state_dict(saved)
    train(half, [later], 4, 4)
    assert torch.equal(weights(half), weights(model))


def test_state_of_narrow_parameters_is_not_rounded() -> None:
    w = torch.nn.Parameter(torch.ones(4, 3, dtype=torch.bfloat16))
    plan = plan_of([draft("w", (4, 3), "hidden")])
    opt = build(plan, [("w", w)], lr=0.01, compile=False)
    w.grad = torch.randn(4, 3).bfloat16()
    opt.step()
    saved = through_file(opt.state_dict())
    other = build(plan, [("w", w)], lr=0.01, compile=False)
    other.load_state_dict(saved)
    mine, loaded = opt.state[w]["momentum_buffer"], other.state[w]["momentum_buffer"]
    assert loaded.dtype == torch.float32
    assert torch.equal(mine, loaded)
    assert not torch.equal(mine, mine.bfloat16().float())


def test_a_checkpoint_with_swapped_groups_and_order_is_matched_by_name() -> None:
    model, opt = made("muon")
    train(model, [opt], 2)
    saved = opt.state_dict()
    swapped = copy.deepcopy(saved)
    swapped["param_groups"].reverse()
    for group in swapped["param_groups"]:
        group["params"].reverse()
        group["param_names"].reverse()
    other = build(opt.plan, model.named_parameters(), lr=1.0, compile=False)
    other.load_state_dict(swapped)
    for parameter in model.parameters():
        for name, value in opt.state[parameter].items():
            assert torch.equal(other.state[parameter][name], value)
    assert [group["weight_decay"] for group in other.param_groups] == [0.1, 0.01]
    assert [group["param_names"] for group in other.param_groups] == [
        group["param_names"] for group in opt.param_groups
    ]


def test_another_plan_is_refused_and_its_rows_are_named() -> None:
    model, opt = made()
    train(model, [opt], 1)
    other = build(plan_of(small_rows(model), "scion", radius_output=3.0), model.named_parameters(), lr=0.1)
    with pytest.raises(NormcError) as error:
        other.load_state_dict(through_file(opt.state_dict()))
    assert "head.weight: output, lmo, sign, scale 0.625 -> output, lmo, sign, scale 0.1875" in str(error.value)
    assert "embed" not in str(error.value)


def test_foreign_checkpoints_are_refused() -> None:
    model, opt = made()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(NormcError, match="no parameter names"):
        opt.load_state_dict(plain.state_dict())
    named = torch.optim.SGD(list(model.named_parameters())[1:], lr=0.1)
    with pytest.raises(NormcError, match=r"nothing of 'embed.weight'"):
        opt.load_state_dict(named.state_dict())


def test_a_checkpoint_may_come_before_the_plan() -> None:
    model, opt = made()
    train(model, [opt], 2)
    saved, at = through_file(opt.state_dict()), copy.deepcopy(model.state_dict())
    train(model, [opt], 2, 2)
    again = Small()
    again.load_state_dict(at)
    later = defer(recipes["scion"], again.named_parameters(), lr=0.5, compile=False)
    later.load_state_dict(saved)
    later.adopt(opt.plan)
    train(again, [later], 2, 2)
    assert torch.equal(weights(again), weights(model))
    wrong = defer(recipes["scion"], again.named_parameters(), lr=0.5)
    wrong.load_state_dict(saved)
    with pytest.raises(NormcError, match="another plan"):
        wrong.adopt(plan_of(small_rows(model), "scion", radius_hidden=1.0))


def test_distributed_checkpoint_round_trip() -> None:
    """torch.distributed.checkpoint makes all state with a step of zeros, then sets it by name."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model, opt = made("muon")
    train(model, [opt], 2)
    model_state, opt_state = copy.deepcopy(get_state_dict(model, opt))
    train(model, [opt], 2, 2)
    again, fresh = made("muon", seed=1)
    set_state_dict(again, fresh, model_state_dict=model_state, optim_state_dict=opt_state)
    train(again, [fresh], 2, 2)
    assert torch.equal(weights(again), weights(model))
