"""Narrow states and stochastic rounding in kernels, in Triton's interpreter: bit by bit what lists of tensors do."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from normc.compiler import build
from normc.compiler import compile as compile_
from normc.optimizer import Optimizer
from normc.recipe.by_name import recipes
from normc.update.kernels import cost, normalise
from normc.update.program.module import load
from normc.update.runtime import faults
from normc.update.runtime import fused as runtime
from normc.update.runtime.rounding import SEED, round_stochastically
from normc.update.runtime.step import UpdateOptimizer
from tests.handmade import Small, draft, plan_of, small_rows
from tests.update.kernels.interpreting import interpret

pytest.importorskip("triton")

TARGET = "cuda:sm_70"  # Newton-Schulz in float32
FEW = ("muon", "modular-dual", "adamw")
EVERY = [name for name in recipes if name not in ("soap", "shampoo", "scion-light")]
BOTH: dict[str, Any] = {"state_dtype": torch.bfloat16, "stochastic_rounding": True}


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels run on the CPU, but for those of matrices; loaded modules aren't taken from the cache."""
    interpret(monkeypatch, normalise, faults)
    monkeypatch.setattr(cost, "LARGEST", 0)
    load.cache_clear()
    yield
    load.cache_clear()


def only_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step on lists fails from here on."""

    def fail(*args: object) -> None:
        raise AssertionError("a step on lists of tensors")

    monkeypatch.setattr(UpdateOptimizer, "_step", fail)


def built(model: nn.Module, recipe: str, target: str = TARGET, **options: Any) -> Optimizer:
    plan = plan_of(small_rows(model), recipe)  # type: ignore[arg-type]
    return build(plan, model.named_parameters(), lr=5e-3, backend=target, compile=False, **options)


def give(models: list[nn.Module], step: int, without: tuple[int, ...] = ()) -> None:
    generator = torch.Generator().manual_seed(step)
    for index, same in enumerate(zip(*(model.parameters() for model in models), strict=True)):
        grad = torch.randn(same[0].shape, generator=generator)
        for parameter in same:
            parameter.grad = None if index in without else grad.to(parameter.dtype)


def last_places(one: nn.Module, other: nn.Module) -> float:
    """The share of bf16 weights that differ, all by one last place."""
    pairs = [(a.detach(), b.detach()) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    for a, b in pairs:
        torch.testing.assert_close(a.float(), b.float(), rtol=2**-6, atol=2e-3)
    return sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)


def test_kernels_and_lists_throw_the_same_dice() -> None:
    """sgd of lr 1 is exact in float32, so that all that rounds is the rounding."""
    grads = torch.randn(2, 40, 33, generator=torch.Generator().manual_seed(0))
    found = []
    for target in (TARGET, "cpu:fp32"):
        pair = [nn.Parameter(torch.ones(40, 33, dtype=torch.bfloat16)) for _ in range(2)]
        plan = plan_of([draft(name, (40, 33), "hidden") for name in ("a", "b")], "sgd")
        how: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "compile": False}
        opt = build(plan, zip(("a", "b"), pair, strict=True), backend=target, **how, **BOTH)
        for step in range(3):
            for parameter, grad in zip(pair, grads, strict=True):
                parameter.grad = (grad * 2.0**-step).bfloat16()
            opt.step()
        found.append((pair, opt))
    (kernels, first), (lists, second) = found
    for own, other in zip(kernels, lists, strict=True):
        assert torch.equal(own, other)
        for name, value in first.state[own].items():
            assert torch.equal(value, second.state[other][name])
    assert not torch.equal(kernels[0], round_stochastically(torch.ones(40, 33), 0, 0, 0))


@pytest.mark.parametrize(
    "recipe", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
def test_steps_in_kernels_follow_those_on_lists(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    ours = Small().bfloat16()
    lists = copy.deepcopy(ours)
    fast, slow = built(ours, recipe, **BOTH), built(lists, recipe, "cpu:fp32", **BOTH)
    without = ((), (1, 4), ())
    for step in range(3):
        give([lists], step, without[step])
        slow.step()
    fused = all(bucket.fused is not None for bucket in fast.update.buckets)
    assert fused or recipe not in FEW
    if fused:
        only_kernels(monkeypatch)
    for step in range(3):
        give([ours], step, without[step])
        fast.step()
    assert last_places(ours, lists) < 0.1
    for one, other in zip(ours.parameters(), lists.parameters(), strict=True):
        kinds = {name: value.dtype for name, value in fast.state[one].items()}
        assert kinds == {name: value.dtype for name, value in slow.state[other].items()}


def test_rounding_by_chance_is_right_on_average() -> None:
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    plan = plan_of([draft("w", (64, 64), "hidden")], "sgd")
    how: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "backend": TARGET, "compile": False}
    opt = build(plan, [("w", weight)], stochastic_rounding=True, **how)
    for _ in range(8):
        weight.grad = torch.full_like(weight, 2.0**-11)
        opt.step()
    assert float(1.0 - weight.detach().double().mean()) == pytest.approx(2.0**-8, rel=0.1)
    assert next(iter(opt.state.values()), {"m": torch.zeros(())}).popitem()[1].dtype == torch.float32


@pytest.mark.parametrize("seed", range(3))
def test_infinities_stay_and_nan(seed: int) -> None:
    weight = nn.Parameter(torch.zeros(1, 4, dtype=torch.bfloat16))
    plan = plan_of([draft("w", (1, 4), "hidden")], "adamw")
    opt = build(plan, [("w", weight)], lr=0.0, backend=TARGET, compile=False, nonfinite="ignore", **BOTH)
    for group in opt.param_groups:
        group[SEED] = seed
    weight.grad = torch.tensor([[float("inf"), -float("inf"), float("nan"), 1.0]], dtype=torch.bfloat16)
    opt.step()
    average = opt.state[weight]["exp_avg"]
    assert average.isinf().tolist() == [[True, True, False, False]]
    assert average.isnan().tolist() == [[False, False, True, False]]
    assert average[0, 0] > 0 > average[0, 1]


def test_turns_change_no_dither(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    ours = Small().bfloat16()
    other = copy.deepcopy(ours)
    whole, turns = built(ours, "muon", **BOTH), built(other, "muon", **BOTH)
    give([ours, other], 0)
    whole.step()
    monkeypatch.setattr(runtime, "AT_ONCE", 1000)
    turns.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), other.parameters(), strict=True))


def test_resuming_is_bit_equal() -> None:
    torch.manual_seed(0)
    ours = Small().bfloat16()
    start = copy.deepcopy(ours)
    opt = built(ours, "adamw", **BOTH)
    for step in range(2):
        give([ours], step)
        opt.step()
    file = io.BytesIO()
    torch.save({"model": ours.state_dict(), "optimizer": opt.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    start.load_state_dict(saved["model"])
    again = built(start, "adamw", **BOTH)
    again.load_state_dict(saved["optimizer"])
    for step in range(2, 4):
        give([ours, start], step)
        opt.step()
        again.step()
    assert [group[SEED] for group in again.param_groups] == [4]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), start.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, BOTH], ids=["plain", "both"])
@pytest.mark.parametrize("mixed_stack", [False, True])
def test_three_dtypes_in_one_model(mixed_stack: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks of one dtype each stay in kernels; a stack of several is stepped on lists."""
    torch.manual_seed(0)
    ours = Small()
    ours.up.bfloat16()
    (ours.down[1] if mixed_stack else ours.down).half()
    lists = copy.deepcopy(ours)
    fast, slow = built(ours, "muon", **options), built(lists, "muon", "cpu:fp32", **options)
    for step in range(2):
        give([ours, lists], step)
        slow.step()
        with monkeypatch.context() as patches:
            if not mixed_stack:
                only_kernels(patches)
            fast.step()
    last_places(ours, lists)
    values = [value for state in fast.state.values() for value in state.values() if value.dim()]
    assert {value.dtype for value in values} == {torch.bfloat16 if options else torch.float32}


def test_the_code_says_it_only_where_it_is_asked_for() -> None:
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 12, bias=False), nn.Linear(12, 5))
    how: dict[str, Any] = {"lr": 0.1, "recipe": "muon", "backend": TARGET}
    plain = compile_(model, torch.zeros(1, 4), **how).source
    assert not any(word in plain for word in ("dither", SEED, "salt", "stochastic", "state="))
    narrow = compile_(model, torch.zeros(1, 4), **how, state_dtype=torch.bfloat16).source
    assert narrow.replace("    state=torch.bfloat16,\n", "").replace("; states in bfloat16", "") == plain
    source = compile_(model, torch.zeros(1, 4), **how, **BOTH).source
    assert source.count("\ndef fused_spectral") == 2
    assert source.count("\ndef before_spectral") == 1  # salts are in tables, so that kernels are shared
    dual = plan_of(small_rows(Small()), "modular-dual")
    counts = []
    for options in ({}, BOTH):
        own = build(dual, Small().named_parameters(), lr=0.1, backend=TARGET, **options)
        counts.append(own.source.count("\ndef before_"))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("state_device", [None, pytest.param("cpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "recipe",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in EVERY if name != "adafactor"],
)
def test_codes_in_kernels_are_those_on_lists(
    recipe: str, state_device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of float32 weights: one code in a thousand may be another, by one, where rounding before it tipped it over."""
    torch.manual_seed(0)
    ours = Small()
    lists = copy.deepcopy(ours)
    options: dict[str, Any] = {"state_dtype": torch.int8, "state_device": state_device}
    fast, slow = built(ours, recipe, **options), built(lists, recipe, "cpu:fp32", **options)
    plain = built(copy.deepcopy(ours), recipe)
    kinds = [[bucket.fused is None for bucket in opt.update.buckets] for opt in (fast, plain)]
    assert kinds[0] == kinds[1]
    with monkeypatch.context() as patches:
        if not any(kinds[0]):
            only_kernels(patches)
        for step, without in enumerate(((), (1, 4), ())):
            give([ours], step, without)
            fast.step()
    for step, without in enumerate(((), (1, 4), ())):
        give([lists], step, without)
        slow.step()
    apart = 0
    for one, other in zip(ours.parameters(), lists.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
        assert fast.state[one].keys() == slow.state[other].keys()
        for name, value in fast.state[one].items():
            found = slow.state[other][name]
            assert value.dtype == found.dtype
            if value.dtype == torch.int8:
                away = (value.int() - found.int()).abs()
                assert int(away.max()) <= 1
                apart += int(away.sum())
            else:
                torch.testing.assert_close(value, found, rtol=1e-4, atol=1e-6)
    assert apart < 4


def test_codes_of_zeros_and_of_what_is_not_finite() -> None:
    """Blocks of 256 in kernels, as on lists: 600 entries are two and a part."""
    found = []
    for target in (TARGET, "cpu:fp32"):
        weight = nn.Parameter(torch.zeros(2, 300))
        how: dict[str, Any] = {"lr": 0.0, "backend": target, "compile": False, "nonfinite": "ignore"}
        opt = build(plan_of([draft("w", (2, 300), "hidden")], "adamw"), [("w", weight)], state_dtype=torch.int8, **how)
        weight.grad = torch.zeros(2, 300)
        weight.grad[0, 0], weight.grad[1, 299] = float("nan"), 3.0
        opt.step()
        found.append(opt.state[weight])
    for state in found:
        codes, scales = state["exp_avg"].flatten(), state["exp_avg_scale"]
        assert not scales[0].isfinite() and scales[1:].tolist() == [0.0, pytest.approx(0.3)]
        assert codes[256:].tolist() == [0] * 343 + [127]


def test_the_first_step_is_that_without_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step goes along the average itself; only what is kept of it is rounded."""
    found = []
    for state_dtype in (None, torch.int8):
        torch.manual_seed(0)
        model = Small()
        opt = built(model, "muon", state_dtype=state_dtype)
        only_kernels(monkeypatch)
        give([model], 0)
        opt.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*found)
