"""What of a checkpoint can't be used: refused whole, or left out where that is asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import normc
from tests.optimizer.loading import Net, X, by_name, made, train, trained

pytestmark = pytest.mark.usefixtures("updates_once")


def spoilt(spoil: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    state = copy.deepcopy(trained()[1].state_dict())
    spoil(state)
    return state


SPOILT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a lost state": (lambda s: s["state"].pop(0), r"a\.weight: the state 'momentum_buffer' is gone"),
    "no states": (lambda s: s.update(state={}), "'momentum_buffer' is gone"),
    "other names": (
        lambda s: [s["state"][key].update(old=s["state"][key].pop("momentum_buffer")) for key in (0, 1)],
        "'momentum_buffer' is gone; it has no state 'old'",
    ),
    "one state too many": (lambda s: s["state"][0].update(extra=torch.ones(8, 6)), "it has no state 'extra'"),
    "another shape": (
        lambda s: s["state"][0].update(momentum_buffer=torch.ones(3, 3)),
        r"'momentum_buffer' has shape \(3, 3\), not \(8, 6\)",
    ),
    "a number": (lambda s: s["state"][0].update(momentum_buffer=1.0), "'momentum_buffer' is a float, not a tensor"),
    "whole numbers": (
        lambda s: s["state"][0].update(momentum_buffer=torch.ones(8, 6, dtype=torch.long)),
        "of torch.int64, not of floating",
    ),
    "no plan": (lambda s: [g.pop("plan") for g in s["param_groups"]], "holds no plan"),
    "no names": (lambda s: [g.pop("param_names") for g in s["param_groups"]], "no parameter names"),
    "too few names": (lambda s: s["param_groups"][0]["param_names"].pop(), "names 1 of 2 parameters"),
    "another parameter": (
        lambda s: s["param_groups"][0]["param_names"].__setitem__(0, "z.weight"),
        r"nothing of 'a\.weight'",
    ),
    "no groups": (lambda s: s.pop("param_groups"), "has no 'param_groups'"),
    "lr that is no number": (lambda s: s["param_groups"][0].update(lr="fast"), "lr is 'fast'"),
}


@pytest.mark.parametrize("what", list(SPOILT))
def test_what_cannot_be_used_is_refused_and_nothing_is_loaded(what: str) -> None:
    spoil, message = SPOILT[what]
    _, opt = trained(lr=0.7)
    before = copy.deepcopy((by_name(opt), opt.param_groups))
    with pytest.raises(normc.NormcError, match=message):
        opt.load_state_dict(spoilt(spoil))
    for name, states in by_name(opt).items():
        assert states.keys() == before[0][name].keys()
        assert all(torch.equal(value, before[0][name][key]) for key, value in states.items())
    assert [group["lr"] for group in opt.param_groups] == [0.7, 0.7]
    # Before the plan is known, it is refused then.
    model = Net()
    later = normc.compile(model, recipe="muon", lr=0.7, compile=False)
    with pytest.raises(normc.NormcError, match=message):
        later.load_state_dict(spoilt(spoil))
        model(X)


def test_values_that_a_checkpoint_lacks_stay() -> None:
    state = spoilt(lambda s: [(g.pop("lr"), g.pop("momentum")) for g in s["param_groups"]])
    model, opt = made(lr=0.3, momentum=0.5)
    opt.load_state_dict(state)
    assert [(group["lr"], group["momentum"]) for group in opt.param_groups] == [(0.3, 0.5)] * 2
    train(model, opt, 0, 1)


def test_other_optimizers_checkpoints_are_refused_and_taken_as_far_as_they_fit() -> None:
    model, opt = made("adamw")
    old = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    train(model, old, 0, 2)
    with pytest.raises(normc.NormcError, match="another optimizer wrote it"):
        opt.load_state_dict(old.state_dict())
    opt.load_state_dict(old.state_dict(), strict=False)
    assert [group["lr"] for group in opt.param_groups] == [1e-3]
    assert "betas" not in opt.param_groups[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(by_name(opt)[name]["exp_avg"], old.state[parameter]["exp_avg"])
    train(model, opt, 2, 1)


def test_not_strict_takes_what_fits_and_lists_the_rest() -> None:
    def spoil(state: dict[str, Any]) -> None:
        state["state"][0].update(momentum_buffer=torch.ones(3, 3))
        state["param_groups"][1]["param_names"][0] = "z.bias"

    model, opt = made()
    with pytest.warns(normc.NormcWarning, match="3 parts are left out") as caught:
        left = opt.load_state_dict(spoilt(spoil), strict=False)
    assert caught[0].filename == __file__
    assert sorted(line.split(":")[0] for line in left) == ["a.bias", "a.weight", "z.bias"]
    states = by_name(opt)
    assert [name for name, own in states.items() if not own] == ["a.weight", "a.bias"]
    assert torch.equal(states["b.weight"]["momentum_buffer"], by_name(trained()[1])["b.weight"]["momentum_buffer"])
    train(model, opt, 2, 1)
