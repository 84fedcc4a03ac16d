"""States on the host (`state_device="cpu"`): the same steps, with copies beside the parameters while a bucket steps."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import normc
from normc.compiler import build
from normc.errors import NormcError
from normc.exporting import export
from normc.optimizer import Optimizer
from normc.recipe.by_name import recipes
from normc.update.program.storage import PLAIN, Storage
from normc.update.runtime import lists
from tests.handmade import Small, plan_of, small_rows, train
from tests.optimizer.test_export import imported
from tests.optimizer.test_step import weights

HELD = ("scion-light",)


def made(recipe: str, **options: Any) -> tuple[Small, Optimizer]:
    torch.manual_seed(0)
    model = Small()
    how: dict[str, Any] = {"lr": 5e-3, "compile": False, "backend": "cpu:fp32", **options}
    return model, build(plan_of(small_rows(model), recipe), model.named_parameters(), **how)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """States are copied as from another device; what has been copied, in bytes."""
    copied: list[int] = []

    def beside(state: Tensor, parameter: Tensor) -> Tensor:
        copied.append(state.numel() * state.element_size())
        return state.clone()

    monkeypatch.setattr(lists, "_beside", beside)
    return copied


@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("recipe", ["adamw", "muon", "modular-dual", "soap", "normuon"])
def test_steps_are_equal_to_the_bit(
    recipe: str, state_dtype: torch.dtype | None, away: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "_PART", 500)
    model, opt = made(recipe, state_dtype=state_dtype)
    other, far = made(recipe, state_dtype=state_dtype, state_device="cpu")
    train(model, [opt], 3)
    assert not away
    train(other, [far], 3)
    assert torch.equal(weights(model), weights(other))
    for one, two in zip(opt.state.values(), far.state.values(), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    held = [value for state in far.state.values() for value in state.values()]
    counts = sum(value.dim() == 0 for value in held)
    assert sum(away) == 3 * (sum(value.numel() * value.element_size() for value in held) - 4 * counts)


@pytest.mark.parametrize("recipe", [name for name in recipes if name not in HELD])
def test_every_recipe_may_keep_its_states_there(recipe: str, away: list[int]) -> None:
    found = []
    for options in ({}, {"state_device": "cpu"}):
        model, opt = made(recipe, **options)
        train(model, [opt], 2)
        found.append(weights(model))
    assert torch.equal(*found)


def test_a_step_that_is_left_out_leaves_them_as_they_were(away: list[int]) -> None:
    model, opt = made("adamw", state_device="cpu", nonfinite="skip")
    train(model, [opt], 1)
    before = copy.deepcopy(opt.state_dict()["state"])
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    with pytest.warns(UserWarning, match="finite"):
        opt.step()
    for own, now in zip(before.values(), opt.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(own[key], now[key]) for key in own)


def test_checkpoints_pickles_and_exports_keep_the_option(
    away: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, opt = made("adamw", state_device="cpu")
    train(model, [opt], 2)
    other, plain = made("adamw")
    other.load_state_dict(model.state_dict())
    plain.load_state_dict(copy.deepcopy(opt.state_dict()))
    twin, copied = pickle.loads(pickle.dumps((model, opt)))
    assert copied.update.offload and not plain.update.offload
    file = export(opt, tmp_path / "update.py")
    module = imported(file, monkeypatch)
    again = copy.deepcopy(model)
    own = module.Optimizer(again.named_parameters(), lr=5e-3, compile=False)
    own.load_state_dict(copy.deepcopy(opt.state_dict()))
    for one, how in ((model, opt), (other, plain), (twin, copied), (again, own)):
        train(one, [how], 2, 2)
        assert torch.equal(weights(one), weights(model))
    text = export(opt.plan, tmp_path / "other.py", "cuda:sm_90", state_device="cpu").read_text()
    assert "offload=True" in text and "states on the host" in text


def test_on_a_cpu_it_says_nothing_and_mistakes_are_explained() -> None:
    model, opt = made("adamw", state_device="cpu")
    train(model, [opt], 1)
    assert not any(value.is_pinned() for state in opt.state.values() for value in state.values())
    for place in ("cuda", "gpu", 0, torch.device("cpu")):
        with pytest.raises(NormcError, match=r'state_device is (.|\n)*give "cpu"'):
            normc.compile(model, torch.zeros(1, 4, dtype=torch.long), lr=1.0, state_device=place)  # type: ignore[arg-type]
    with pytest.raises(NormcError, match=r"'embed.weight' is its gradient(.|\n)*leave state_device out"):
        made("scion-light", state_device="cpu")


def test_a_pickle_of_fewer_options_has_the_others_by_default() -> None:
    old = Storage.__new__(Storage)
    old.__setstate__([torch.bfloat16, True])
    assert old == Storage(torch.bfloat16, True, False)
    assert pickle.loads(pickle.dumps(PLAIN)) == PLAIN
