"""Gradients that aren't finite, where kernels step: nothing is written, and the host knows a step later."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from normc.compiler import build
from normc.errors import NormcError
from normc.optimizer import Optimizer
from tests.handmade import Small, draft, plan_of, small_rows
from tests.optimizer.test_faults import LOUD, NAME, POISONS, give, kept, same
from tests.quick import others_slow
from tests.update.fused.interpreted import TARGET, farthest, interpreter

pytest.importorskip("triton")
__all__ = ["interpreter"]  # a fixture of every test here

# Kernels alone; kernels beside lists of tensors; both with narrow weights.
RECIPES = ("muon", "adamw", "lion", "muon, output=shampoo")


def made(recipe: str, policy: str, backend: str = TARGET) -> tuple[Small, Optimizer]:
    torch.manual_seed(0)
    model = Small(width=4, layers=2)
    plan = plan_of(small_rows(model), recipe)
    return model, build(plan, model.named_parameters(), lr=5e-3, backend=backend, compile=False, nonfinite=policy)


@LOUD
@pytest.mark.parametrize("name", [NAME, pytest.param("head.weight", marks=pytest.mark.slow)])
@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_in_kernels_is_left_out_whole(recipe: str, policy: str, name: str) -> None:
    (ours, fast), (plain, slow) = made(recipe, policy), made(recipe, "raise", "reference")
    for seed in range(6):
        wrong = seed in (0, 3)
        before = kept(ours, fast)
        give(ours, seed, math.nan if wrong else None, name)
        if policy == "raise" and seed in (1, 4):
            with pytest.raises(NormcError, match=f"'{name}' was not finite; that step has moved nothing"):
                fast.step()
        fast.step()
        if wrong:
            assert same(kept(ours, fast)[: len(list(ours.parameters()))], before[: len(list(ours.parameters()))])
            assert fast.nonfinite[name] == 1 + (seed == 3)
            assert seed == 0 or same(kept(ours, fast), before)  # counts too
        else:
            give(plain, seed)
            slow.step()
    assert fast._launcher is not None
    assert farthest(ours, plain) < 2e-5


@LOUD
@pytest.mark.parametrize("poison", others_slow(POISONS, POISONS[:1]))
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", [NAME, "head.weight"])
@pytest.mark.parametrize("recipe", ["muon", "muon, output=shampoo"])
def test_entries_count_as_zero_in_kernels(recipe: str, name: str, narrow: bool, poison: float) -> None:
    (ours, fast), (plain, slow) = made(recipe, "zero"), made(recipe, "raise")
    if narrow:
        for model in (ours, plain):
            model.to(torch.bfloat16)
    for seed in range(3):
        give(ours, seed, poison, name)
        give(plain, seed, 0.0, name)
        fast.step()
        slow.step()
    assert fast.nonfinite == {name: 3}
    assert all(map(torch.equal, ours.parameters(), plain.parameters()))


def test_gradients_that_are_large_or_beyond_a_block_are_seen() -> None:
    for policy, value in (("raise", 3e38), ("skip", math.inf)):
        weight = nn.Parameter(torch.ones(64, 70))
        plan = plan_of([draft("w", (64, 70), "hidden")], "lion")
        opt = build(plan, [("w", weight)], lr=5e-3, backend=TARGET, compile=False, nonfinite=policy)
        weight.grad = torch.full_like(weight, 1e-3)
        weight.grad[-1, -1] = value
        before = copy.deepcopy(weight.detach())
        opt.step()
        with pytest.warns() if policy == "skip" else nullcontext():
            assert opt.nonfinite == ({"w": 1} if policy == "skip" else {})
        assert torch.equal(weight, before) == (policy == "skip")
