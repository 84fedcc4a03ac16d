"""torch.distributed's checkpoints: by name, flattened, in memory and on disk."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as read_folder
from torch.distributed.checkpoint.state_dict_saver import save as write_folder
from torch.optim.lr_scheduler import CosineAnnealingLR

import normc
from tests.optimizer.loading import made, train, trained, weights

pytestmark = pytest.mark.usefixtures("updates_once")

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
DISTRIBUTED = ["muon", "scion", "scion-light", "adamw", "adafactor", {"*": "muon", "output": "adamw"}]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("options", [None, FLAT, StateDictOptions(full_state_dict=True)], ids=["", "flat", "full"])
@pytest.mark.parametrize("recipe", DISTRIBUTED, ids=str)
def test_distributed_checkpoints(recipe: Any, options: StateDictOptions | None, disk: bool, tmp_path: Path) -> None:
    model, opt = made(recipe)
    train(model, opt, 0, 3)
    at = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(get_optimizer_state_dict(model, opt, options=options))
    train(model, opt, 3, 2)
    again, other = made(recipe)
    again.load_state_dict(at)
    if disk:
        write_folder({"optimizer": state}, checkpoint_id=tmp_path)
        held = {"optimizer": get_optimizer_state_dict(again, other, options=options)}
        read_folder(held, checkpoint_id=tmp_path)
        state = held["optimizer"]
    set_optimizer_state_dict(again, other, state, options=options)
    train(again, other, 3, 2)
    assert torch.equal(weights(again), weights(model))
    CosineAnnealingLR(other, 10).step()


def test_set_state_dict_leaves_whole_groups() -> None:
    model, opt = trained("adamw")
    held = copy.deepcopy(get_state_dict(model, opt))
    again, other = made("adamw")
    schedule = CosineAnnealingLR(other, 10)
    set_state_dict(again, other, model_state_dict=held[0], optim_state_dict=held[1])
    assert all("lr" in group and "plan" in group for group in other.param_groups)
    train(again, other, 0, 1)
    schedule.step()


def test_another_plans_distributed_checkpoint_is_refused() -> None:
    model, opt = trained("scion")
    again, other = made("scion", options={"radius_output": 3.0})
    with pytest.raises(normc.NormcError, match="another plan"):
        set_optimizer_state_dict(again, other, copy.deepcopy(get_optimizer_state_dict(model, opt)))
    with pytest.raises(normc.NormcError, match="flattened by torch"):
        other.load_state_dict(dict(get_optimizer_state_dict(model, opt, options=FLAT)))
