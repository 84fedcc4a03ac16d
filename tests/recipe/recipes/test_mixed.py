"""Several recipes in one plan: by role, by glob, with their own rates and options, in checkpoints and exports."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normc
from normc.errors import NormcError
from normc.recipe.by_name import recipes
from normc.recipe.mixed import Mixed
from tests.handmade import Small

IDS = torch.arange(8).view(2, 4)
MIX = {"*": "uscion", "output": "muon", "embed.*": "muon", "up.1.*": "scion"}


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        opt.zero_grad()
        model(IDS).square().mean().backward()
        opt.step()


def test_each_row_is_updated_as_by_its_own_recipe() -> None:
    torch.manual_seed(0)
    model = Small()
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    plan = normc.plan(model, IDS, recipe=MIX)
    assert plan.recipe == "uscion, output=muon, embed.*=muon, up.1.*=scion"
    rates = {"uscion": 0.01, "muon": 0.003, "scion": 0.02}
    opt = normc.compile(model, IDS, lr=rates, recipe=MIX, compile=False)
    assert [group["lr"] for group in opt.param_groups] == [0.01, 0.01, 0.003, 0.02, 0.02]
    model(IDS).square().mean().backward()
    opt.step()
    for name, recipe in (("embed.weight", "muon"), ("up.0.weight", "uscion"), ("up.1.weight", "scion")):
        other = Small()
        other.load_state_dict(start)
        alone = normc.compile(other, IDS, lr=rates[recipe], recipe=recipe, compile=False)
        other(IDS).square().mean().backward()
        alone.step()
        torch.testing.assert_close(model.get_parameter(name), other.get_parameter(name))


def test_options_go_to_whom_they_name_or_to_all_who_know_them() -> None:
    mixed = recipes["uscion, output=muon"].configure(**{"muon.ns_steps": 3, "radius_hidden": 2.0})
    assert isinstance(mixed, Mixed)
    assert [member.options for member in mixed.members] == [{"radius_hidden": 2.0}, {"ns_steps": 3}]
    both = recipes["muon, output=scion"].configure(polynomial="exact")
    assert isinstance(both, Mixed)
    assert [member.text("polynomial") for member in both.members] == ["exact", "exact"]
    with pytest.raises(NormcError, match=r"has no option 'scion.ns_steps'"):
        recipes["uscion, output=muon"].configure(**{"scion.ns_steps": 3})
    mix = {"*": "muon", "output": "uscion"}
    opt = normc.compile(Small(), IDS, lr=0.1, recipe=mix, beta2=0.5, compile=False)
    assert [group.get("beta2") for group in opt.param_groups] == [0.5, 0.5, None]


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        ({"output": "muon"}, "leave out what no selector matches"),
        ({"*": "muon", "a=b": "scion"}, "can't be spelled"),
        ("muon, outptu=scion", "'outptu' in .* is no role"),
        ("muon, scion", "is no recipe"),
        ("output=muon", "is no recipe"),
        ("muon, output=nothing", "no recipe is called 'nothing'"),
        ("muon, *.nothing.*=scion", "no parameter is"),
    ],
)
def test_what_is_no_mixture_is_refused(recipe: Any, problem: str) -> None:
    with pytest.raises(NormcError, match=problem):
        normc.plan(Small(), IDS, recipe=recipe)


def test_rates_are_given_for_every_recipe() -> None:
    with pytest.raises(NormcError, match=r"lr is given for muon\n.*uscion, muon"):
        normc.compile(Small(), IDS, lr={"muon": 0.1}, recipe={"*": "uscion", "output": "muon"})
    with pytest.raises(NormcError, match="lr is -1"):
        normc.compile(Small(), IDS, lr={"muon": 0.1, "uscion": -1.0}, recipe={"*": "uscion", "output": "muon"})


EXPORTED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import update
weights = torch.load(sys.argv[1] + "/weights.pt")
named = [(name, torch.nn.Parameter(tensor)) for name, tensor in weights.items()]
opt = update.Optimizer(named, lr={"uscion": 0.1, "muon": 0.2, "scion": 0.3}, compile=False)
print([group["lr"] for group in opt.param_groups])
"""


def test_a_mixture_survives_saving_resuming_and_exporting(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Small()
    plan = normc.plan(model, IDS, recipe=MIX)
    again = normc.NormPlan.from_json(plan.to_json())
    assert (again.hash, again.recipe) == (plan.hash, plan.recipe)
    opt = normc.compile(model, plan=again, lr=0.01, compile=False)
    train(model, opt, 2)
    other = Small()
    other.load_state_dict(model.state_dict())
    resumed = normc.compile(other, plan=plan, lr=0.5, compile=False)
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    normc.export(opt, tmp_path / "update.py")
    torch.save(dict(model.named_parameters()), tmp_path / "weights.pt")
    train(model, opt, 1)
    train(other, resumed, 1)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    ran = subprocess.run([sys.executable, "-c", EXPORTED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[0.1, 0.1, 0.2, 0.3, 0.3]"


def test_the_first_forward_plans_a_mixture() -> None:
    model = Small()
    opt = normc.compile(model, lr={"uscion": 0.1, "muon": 0.2}, recipe={"*": "uscion", "output": "muon"}, compile=False)
    model(IDS)
    train(model, opt, 2)
    assert opt.plan.recipe == "uscion, output=muon"
