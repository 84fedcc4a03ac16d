"""What an earlier version saved loads, and goes on as it would have."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

import normc
from tests.optimizer.earlier import CASES, FLAT, FOLDER, made, train, weights

FILES = sorted(FOLDER.glob("*.pt"))
pytestmark = pytest.mark.filterwarnings("ignore::normc.NormcWarning")


def saved(file: Path, case: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(file, weights_only=True)[case]
    return found


def goes_on(model: torch.nn.Module, opt: normc.Optimizer, after: torch.Tensor) -> None:
    """Steps are compared as far as the order of sums allows, which CPUs choose."""
    train(model, opt, 3, 2)
    bound = 1e-2 if after.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(weights(model), after, atol=bound, rtol=bound)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("case", list(CASES))
def test_a_state_dict_loads(file: Path, case: str) -> None:
    held = saved(file, case)
    model, opt = made(case)
    model.load_state_dict(held["model"])
    opt.load_state_dict(held["optimizer"])
    goes_on(model, opt, held["after"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("form", ["distributed", "flat"])
@pytest.mark.parametrize("case", ["adamw", "muon"])
def test_a_distributed_checkpoint_loads(file: Path, case: str, form: str) -> None:
    held = saved(file, case)
    model, opt = made(case)
    model.load_state_dict(held["model"])
    set_optimizer_state_dict(model, opt, copy.deepcopy(held[form]), options=FLAT if form == "flat" else None)
    goes_on(model, opt, held["after"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_plan_of_a_file_and_a_pickled_optimizer_load(file: Path) -> None:
    held = saved(file, "muon")
    model, _ = made("muon")
    plan = normc.NormPlan.from_json(held["plan"])
    model.load_state_dict(held["model"])
    opt = normc.compile(model, plan=plan, lr=0.02, backend="cpu:fp32", compile=False)
    opt.load_state_dict(held["optimizer"])
    goes_on(model, opt, held["after"])
    state, twin = pickle.loads(file.with_suffix(".pickle").read_bytes())
    assert twin.plan.diff(plan) == ()
    members = [parameter for group in twin.param_groups for parameter in group["params"]]
    names = [name for group in twin.param_groups for name in group["param_names"]]
    assert all(torch.equal(parameter, state[name]) for name, parameter in zip(names, members, strict=True))
    model.load_state_dict(state)
    again = normc.compile(model, plan=plan, lr=0.02, backend="cpu:fp32", compile=False)
    again.load_state_dict(twin.state_dict())
    goes_on(model, again, held["after"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_another_recipes_checkpoint_is_refused_by_name(file: Path) -> None:
    _, opt = made("muon")
    with pytest.raises(normc.NormcError, match=r"head.weight: output, lmo, spectral, scale \S+ -> output, adamw, sign"):
        opt.load_state_dict(saved(file, "auto")["optimizer"])
