"""Gradients that hold the average (scion-light): never zeroed, saved, restored, and updated a few at a time."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.memory import extra
from normc.compiler import build, defer
from normc.errors import NormcError, NormcWarning
from normc.exporting import export
from normc.optimizer import Optimizer
from normc.passes.rewrites import batch
from normc.pipeline import program_of
from normc.recipe.by_name import recipes
from normc.update.ops.matrices import polar
from tests.handmade import Small, draft, loss_of, plan_of, small_rows
from tests.optimizer.test_checkpoint import through_file
from tests.optimizer.test_export import imported
from tests.optimizer.test_step import weights


def made(dtype: torch.dtype = torch.float32, recipe: str = "scion-light") -> tuple[Small, Optimizer]:
    torch.manual_seed(0)
    model = Small().to(dtype)
    return model, build(plan_of(small_rows(model), recipe), model.named_parameters(), lr=1e-2, compile=False)


def train(model: nn.Module, opt: Any, steps: int, first: int = 0) -> None:
    for seed in range(first, first + steps):
        loss_of(model, seed).backward()
        opt.step()


def test_zero_grad_leaves_them_and_says_so_once() -> None:
    model, opt = made()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opt.zero_grad()
        train(model, opt, 1)
        kept = {name: parameter.grad for name, parameter in model.named_parameters()}
        opt.zero_grad()
        opt.zero_grad(set_to_none=False)
    assert [warning.category for warning in caught] == [NormcWarning]
    assert "never zeroes" in str(caught[0].message)
    assert caught[0].filename == __file__
    for name, parameter in model.named_parameters():
        assert parameter.grad is kept[name]
        assert parameter.grad is not None
    assert float(model.head.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]
    assert not opt.state


def test_other_gradients_of_a_mixed_plan_are_zeroed() -> None:
    model, _ = made()
    plan = plan_of(small_rows(model), "lion, hidden=scion-light")
    opt = build(plan, model.named_parameters(), lr=1e-2, compile=False)
    train(model, opt, 1)
    with pytest.warns(NormcWarning, match="6 gradients"):
        opt.zero_grad()
    assert model.embed.weight.grad is None
    assert model.up[0].weight.grad is not None


def test_a_lost_average_is_noticed() -> None:
    model, opt = made()
    train(model, opt, 2)
    model.zero_grad()
    with pytest.warns(NormcWarning, match=r"average of '.*' is lost") as caught:
        train(model, opt, 1, 2)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.zero_grad()
        train(model, opt, 1, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_saved_and_come_back(dtype: torch.dtype) -> None:
    model, opt = made(dtype)
    train(model, opt, 3)
    saved, at = through_file(opt.state_dict()), copy.deepcopy(model.state_dict())
    assert not opt.state
    assert set(saved["state"][0]) == {"gradient"}
    assert all(state["gradient"].dtype == dtype for state in saved["state"].values())
    train(model, opt, 3, 3)
    again, other = made(dtype)
    train(again, other, 1, 7)
    again.load_state_dict(at)
    other.load_state_dict(saved)
    assert not any(other.state.values())
    assert again.head.weight.grad is not None
    assert again.head.weight.grad is not saved["state"][0]["gradient"]
    train(again, other, 3, 3)
    assert torch.equal(weights(again), weights(model))
    # A checkpoint of before the first step has no average.
    other.load_state_dict(made(dtype)[1].state_dict())
    assert again.head.weight.grad is None


def test_a_checkpoint_may_come_before_the_plan() -> None:
    model, opt = made()
    train(model, opt, 2)
    again = copy.deepcopy(model)
    later = defer(recipes["scion-light"], again.named_parameters(), lr=1e-2, compile=False)
    later.load_state_dict(through_file(opt.state_dict()))
    later.adopt(opt.plan)
    train(again, later, 2, 2)
    train(model, opt, 2, 2)
    assert torch.equal(weights(again), weights(model))


def test_copies_and_pickles_have_the_gradients() -> None:
    model, opt = made()
    train(model, opt, 2)
    twins = [copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))]
    train(model, opt, 2, 2)
    for twin_model, twin in twins:
        train(twin_model, twin, 2, 2)
        assert torch.equal(weights(twin_model), weights(model))


def test_narrow_gradients_fade_in_place_and_wide_arithmetic_steps() -> None:
    w = nn.Parameter(torch.ones(6, 4, dtype=torch.bfloat16))
    g = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    opt = build(plan_of([draft("w", (6, 4), "hidden")], "scion-light"), [("w", w)], lr=0.1, compile=False)
    w.grad = g.clone()
    place = w.grad.data_ptr()
    opt.step()
    assert w.grad.data_ptr() == place
    assert torch.equal(w.grad, g * 0.9)


def rounding(opt: Optimizer, dtype: torch.dtype, steps: int) -> float:
    """The most that the rounding of Newton-Schulz may move a weight: its polynomials amplify what is nearly zero.

    Products of a stack of another size are summed in another order, which moves an entry of a unit matrix by a unit
    roundoff. The polynomials' slopes at zero multiply that.
    """
    (polynomials,) = {node.kwargs["polynomials"] for family in program_of(opt.plan).families if family.core
                      for node in family.core.graph.nodes if node.target is polar}  # fmt: skip
    slope = math.prod(a for a, *_ in polynomials)
    radius = max(row.scale.value for row in opt.plan.rows if row.norm == "spectral")
    return steps * 1e-2 * radius * slope * torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [100, 600, 1200])
def test_turns_and_pieces_step_as_the_whole_does(
    size: int, dtype: torch.dtype, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit but for what Newton-Schulz's batches round."""
    whole_model, whole = made(dtype)
    train(whole_model, whole, 4)
    monkeypatch.setattr(batch, "AT_ONCE", size)
    model, _ = made(dtype)
    plan = plan_of(small_rows(model), "scion-light").override("up.1.weight", scale=2.0)
    program = program_of(plan)
    turns = [family for family in program.families if family.again]
    assert sum(1 + len(family.again) for family in program.families if family.core) > 4
    assert {row.name for family in program.families for chain in family.chains for row in chain.rows} | {
        row.name for family in turns for rows in family.again for row in rows
    } == {row.name for row in plan.rows}
    opt = build(plan, model.named_parameters(), lr=1e-2, compile=compiled)
    plain_model, _ = made(dtype)
    slow = build(plan, plain_model.named_parameters(), lr=1e-2, backend="reference")
    train(model, opt, 4)
    train(plain_model, slow, 4)
    bound = rounding(whole, dtype, 4)
    torch.testing.assert_close(weights(model), weights(plain_model), atol=bound, rtol=0)
    same, again = made(dtype)
    train(same, again, 4)
    torch.testing.assert_close(weights(same), weights(whole_model), atol=bound, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_copies_no_more_than_a_matrix_at_a_time(dtype: torch.dtype) -> None:
    """Beside 177 MB of weights and as much of gradients (half in bf16), on meta, where ops make sizes but no data."""
    rows = [draft(f"layers.{i}.w", (3072, 768), "hidden") for i in range(4)]
    rows += [draft("head", (40000, 768), "output"), draft("norm", (768,), "gain")]
    state, peak = extra(plan_of(rows, "scion-light"), dtype)
    assert state == 0
    assert peak <= 5 * 4 * 3072 * 768
    assert extra(plan_of(rows, "scion"), dtype)[1] > 100e6


def test_an_exported_update_holds_gradients_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "AT_ONCE", 600)
    model, opt = made()
    module = imported(export(opt, tmp_path / "update.py"), monkeypatch)
    again = copy.deepcopy(model)
    other = module.Optimizer(again.named_parameters(), lr=1e-2, compile=False)
    train(model, opt, 2)
    train(again, other, 2)
    state = through_file(other.state_dict())
    other.load_state_dict(state)
    train(model, opt, 2, 2)
    train(again, other, 2, 2)
    with pytest.warns(UserWarning, match="never zeroes"):
        other.zero_grad()
    assert torch.equal(weights(again), weights(model))


def scaled(model: nn.Module, opt: Any, scaler: Any, seed: int) -> None:
    scaler.scale(loss_of(model, seed)).backward()
    scaler.step(opt)
    scaler.update()


def test_a_gradient_scaler_is_refused_before_it_scales() -> None:
    model, opt = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    loss_of(model, 0).backward()
    opt.step()
    before = weights(model)
    with pytest.raises(NormcError, match="scion-light can't take a GradScaler"):
        scaled(model, opt, scaler, 1)
    assert torch.equal(weights(model), before)
    scaled(model, opt, torch.amp.GradScaler("cpu", enabled=False), 2)
    other, plain = made(recipe="scion")
    assert not hasattr(plain, "_step_supports_amp_scaling")
    scaled(other, plain, scaler, 1)


def halved(model: nn.Module) -> None:
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)


TOUCHES: dict[str, Any] = {
    "clipped by norm": lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1e-3),
    "clipped by value": lambda model: nn.utils.clip_grad_value_(model.parameters(), 1e-3),
    "scaled": halved,
    "zeroed": lambda model: model.zero_grad(set_to_none=False),
}


@pytest.mark.parametrize("before_backward", [False, True])
@pytest.mark.parametrize("touch", TOUCHES)
def test_averages_that_something_else_writes_to_are_noticed(touch: str, before_backward: bool) -> None:
    model, opt = made()
    train(model, opt, 2)
    if before_backward:
        TOUCHES[touch](model)
    loss_of(model, 2).backward()
    if not before_backward:
        TOUCHES[touch](model)
    with pytest.warns(NormcWarning, match="changed by something else than backward") as caught:
        opt.step()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, opt, 2, 3)


def test_several_backward_passes_a_step_are_nothing_to_notice() -> None:
    model, opt = made()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(6):
            loss_of(model, seed).backward()
            if seed % 3 == 2:
                opt.step()


def test_an_average_lost_after_a_load_is_noticed() -> None:
    model, opt = made()
    train(model, opt, 2)
    saved = copy.deepcopy(opt.state_dict())
    other, again = made()
    again.load_state_dict(saved)
    other.zero_grad()
    with pytest.warns(NormcWarning, match=r"average of '.*' is lost"):
        train(other, again, 1, 2)
