"""Steps over ranks equal those of one process: every recipe, every way that parameters lie."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

import normc
from normc.errors import NormcError
from normc.passes.rewrites import distribute
from normc.recipe.by_name import recipes
from normc.update.runtime.ranked import Ranked
from tests.distributed.models import IDS, Small, give, gradients, lay_out, optimizer, whole
from tests.distributed.world import on_ranks

FEW = ["muon", "adamw", "scion-light", "hyperball", "normuon"]
WINDOWED = [(2, "muon", "rows"), (5, "auto", "columns"), (2, "normuon", "rows")]
Found = tuple[float, float, int]  # as `farthest` has it
# The last place: a vector's tail lies elsewhere in a shard, where atan2 and quotients may round otherwise; and in one
# process rewrites join ops across the cut.
ROUNDED = {"adam-atan2": 1e-7, "adamuon": 1e-7, "scion-light": 1e-7}


class Alone:
    """Five steps of one process: the plan, where weights began, and where they ended."""

    def __init__(self, recipe: str, backend: str = "cpu") -> None:
        model = Small()
        self.plan = normc.plan(model, IDS, recipe=recipe)
        self.start = {name: p.detach().clone() for name, p in model.named_parameters()}
        members: dict[str, torch.Tensor] = dict(model.named_parameters())
        trained(members, optimizer(model, self.plan, backend=backend), recipe)
        self.ends = {name: whole(parameter) for name, parameter in members.items()}


known = functools.cache(Alone)


def trained(members: dict[str, torch.Tensor], opt: normc.Optimizer, recipe: str) -> None:
    """Five steps, one of them without a gradient."""
    held = recipe == "scion-light"
    for step in range(5):
        give(members, gradients(Small(), step, ("norm.bias",) if step == 2 and not held else ()), held)
        opt.step()


def farthest(recipe: str, layout: str, alone: Alone, backend: str = "cpu") -> Found:
    """The largest difference from one process, the largest step, and how often a whole tensor was asked for."""
    model = Small()
    members = lay_out(model, layout)
    asked, full_tensor = [0], DTensor.full_tensor

    def counted(self: DTensor, **options: Any) -> torch.Tensor:
        asked[0] += 1
        return full_tensor(self, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DTensor, "full_tensor", counted)
        trained(members, optimizer(model, alone.plan, backend=backend), recipe)
    ends = {name: whole(parameter) for name, parameter in members.items()}
    apart = max(float((ends[name] - end).abs().max()) for name, end in alone.ends.items())
    moved = min(float((ends[name] - old).abs().max()) for name, old in alone.start.items())
    return apart, moved, asked[0]


def every(names: list[str], layouts: list[str], backend: str = "cpu") -> dict[tuple[str, str], Found]:
    """All of these recipes on all of these layouts."""
    found: dict[tuple[str, str], Found] = {}
    for recipe in names:
        alone = known(recipe, backend)
        found |= {(recipe, layout): farthest(recipe, layout, alone, backend) for layout in layouts}
    return found


def windowed() -> tuple[dict[tuple[str, str], Found], list[int]]:
    """Steps whose owners' work is cut into so many windows, and how many each of the ranks' optimizers had."""
    found: dict[tuple[str, str], Found] = {}
    had = []
    init = Ranked.__init__

    def noted(self: Ranked, *given: Any) -> None:
        init(self, *given)
        had.append(len(self.windows))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranked, "__init__", noted)
        for number, recipe, layout in WINDOWED:
            patch.setattr(distribute, "number_of", lambda load, rates, number=number: number)
            found[recipe, f"{layout} in {number}"] = farthest(recipe, layout, known(recipe, "cpu"))
    return found, had


def rounded() -> float:
    """How far a step over ranks is from one process's, of its length, where directions and steps are sent in bf16."""
    plain, model = Small(), Small()
    plan = normc.plan(plain, IDS, recipe="muon")
    members, start = lay_out(model, "rows"), {name: p.detach().clone() for name, p in plain.named_parameters()}
    slow, fast = optimizer(plain, plan), optimizer(model, plan, messages=torch.bfloat16)
    give(dict(plain.named_parameters()), gradients(plain, 0))
    give(members, gradients(plain, 0))
    slow.step()
    fast.step()
    ranked: Any = fast._ranked
    name, there = "qkv.weight", ranked.windows[0].there[0]
    assert {value.sent_as for message in there._messages for value, _, _ in message} == {torch.bfloat16}
    apart = whole(members[name]) - dict(plain.named_parameters())[name].detach()
    return float(apart.norm() / (whole(members[name]) - start[name]).norm())


def hold(found: dict[tuple[str, str], Found]) -> None:
    for (recipe, layout), (apart, moved, asked) in found.items():
        assert apart <= ROUNDED.get(recipe, 0.0), (recipe, layout)
        assert moved > 1e-5, (recipe, layout)  # Adafactor's steps are relative to weights
        assert asked == 0, (recipe, layout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "layouts", "chosen"),
    [
        *((2, ["rows", "columns", "copies"], slice(start, None, 3)) for start in range(3)),
        (3, ["rows"], slice(None)),
        (4, ["hybrid"], slice(0, None, 2)),
        (4, ["both"], slice(1, None, 2)),
    ],
)
def test_every_recipe_steps_as_in_one_process(ranks: int, layouts: list[str], chosen: slice, tmp_path: Path) -> None:
    for found in on_ranks(ranks, tmp_path, every, list(recipes)[chosen], layouts):
        hold(found)


def more_rows_than_entries() -> float:
    """Eight ranks, and tensors of three rows: some hold nothing."""
    plain, model = Small(3, 3), Small(3, 3)
    plan = normc.plan(plain, IDS, recipe="auto")
    members = lay_out(model, "rows")
    slow, fast = optimizer(plain, plan), optimizer(model, plan)
    for step in range(3):
        give(dict(plain.named_parameters()), gradients(plain, step))
        give(members, gradients(plain, step))
        slow.step()
        fast.step()
    return max(float((whole(members[name]) - p).detach().abs().max()) for name, p in plain.named_parameters())


@pytest.mark.slow
def test_ranks_may_hold_nothing(tmp_path: Path) -> None:
    assert on_ranks(8, tmp_path, more_rows_than_entries) == [0.0] * 8


def poisoned(policy: str) -> tuple[str, bool, int]:
    """What a step says where one rank's shard has a NaN, whether anything moved, and what is counted."""
    model = Small()
    plan = normc.plan(Small(), IDS)
    members = lay_out(model, "rows")
    opt = optimizer(model, plan, nonfinite=policy)
    give(members, gradients(Small(), 0))
    opt.step()
    grads = gradients(Small(), 1)
    grads["qkv.weight"][0, 0] = math.nan  # the first rank's
    give(members, grads)
    before = {name: whole(parameter) for name, parameter in members.items()}
    said = ""
    try:
        opt.step()
    except NormcError as error:
        said = str(error)
    moved = any(not torch.equal(whole(parameter), before[name]) for name, parameter in members.items())
    finite = all(bool(whole(parameter).isfinite().all()) for parameter in members.values())
    assert finite
    return said, moved, sum(opt.nonfinite.values())


def disagreeing() -> str:
    """What a step says where a rank lacks a gradient that others have."""
    model = Small()
    members = lay_out(model, "rows")
    opt = optimizer(model, normc.plan(Small(), IDS))
    give(members, gradients(Small(), 0))
    if torch.distributed.get_rank():
        members["up.weight"].grad = None
    with pytest.raises(NormcError) as found:
        opt.step()
    give(members, gradients(Small(), 0))
    opt.step()
    return str(found.value)


def kept_narrow() -> dict[str, tuple[bool, bool, bool]]:
    """Of models whose states are bf16: whether they step as in one process, whether states are of bf16 and equal to
    those of one process, and whether ranks step shares for each other.
    """
    found = {}
    for recipe, layout in (("muon", None), ("normuon", "rows")):
        plain, model = Small(), Small()
        plan = normc.plan(plain, IDS, recipe=recipe)
        members = lay_out(model, layout)
        slow, fast = (optimizer(each, plan, state_dtype=torch.bfloat16) for each in (plain, model))
        fast.group = torch.distributed.group.WORLD if layout is None else None
        for step in range(2):
            give(dict(plain.named_parameters()), gradients(Small(), step))
            give(members, gradients(Small(), step))
            slow.step()
            fast.step()
        equal, kept = True, True
        for name, parameter in plain.named_parameters():
            equal &= torch.equal(whole(members[name]), parameter)
            own, other = slow.state[parameter], fast.state[members[name]]
            for state in set(own) & set(other):
                kept &= other[state].dtype == own[state].dtype and torch.equal(whole(other[state]), own[state])
            kept &= not own or any(value.dtype == torch.bfloat16 for value in other.values())
        found[f"{recipe} {layout}"] = (equal, kept, fast._ranked is not None)
    return found


def refused() -> list[str]:
    """What is said where states can't lie over ranks: as the optimizer is made, and where shards come later."""
    said = []
    model = Small()
    lay_out(model, "rows")
    for options in ({"state_dtype": torch.int8}, {"stochastic_rounding": True}):
        with pytest.raises(NormcError) as found:
            optimizer(model, normc.plan(Small(), IDS, recipe="muon"), **options)
        said.append(str(found.value))
    later = Small()
    opt = optimizer(later, normc.plan(later, IDS, recipe="muon"), state_dtype=torch.int8)
    members = lay_out(later, "rows")
    before = {name: whole(parameter) for name, parameter in members.items()}
    give(members, gradients(Small(), 0))
    with pytest.raises(NormcError) as found:
        opt.step()
    assert all(torch.equal(whole(members[name]), before[name]) for name in members)
    return [*said, str(found.value)]


def by_two() -> dict[str, Any]:
    """All that two ranks are tried on, in one meeting."""
    return {
        "steps": every(FEW, ["rows"]) | every(["auto"], ["rows", "columns", "copies"]) | every(["soap"], ["rows"]),
        "poisoned": {policy: poisoned(policy) for policy in ("raise", "skip", "zero")},
        "disagreeing": disagreeing(),
        "narrow": kept_narrow(),
        "refused": refused(),
        "sixteen bits": every(["auto", "muon"], ["rows"], "cpu:bf16"),
        "rounded": rounded(),
        "windowed": windowed(),
    }


def test_two_ranks_step_as_one_process_does_all_or_none(tmp_path: Path) -> None:
    for rank, found in enumerate(on_ranks(2, tmp_path, by_two)):
        hold(found["steps"])
        said, moved, counted = found["poisoned"]["raise"]
        assert "is not finite" in said and ("'qkv.weight'" in said) is (rank == 0)
        assert not moved and counted == 1
        assert found["poisoned"]["skip"] == ("", False, 1)
        assert found["poisoned"]["zero"] == ("", True, 1)
        assert "ranks have gradients of other parameters" in found["disagreeing"]
        assert set(found["narrow"].values()) == {(True, True, True)}
        int8, stochastic, later = found["refused"]
        assert int8 == later and "int8 keeps a scale" in int8 and "torch.bfloat16 works" in int8
        assert "stochastic_rounding would round the copies" in stochastic
        hold(found["sixteen bits"])
        assert 0.0 < found["rounded"] < 0.01
        hold(found["windowed"][0])
        assert found["windowed"][1] == [2, 3, 2]
