"""Steps in kernels against the float64 reference, in Triton's interpreter; what fits in no kernel stays as it is."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.compiler import compile as compile_
from normc.pipeline import update_of
from normc.recipe.by_name import recipes
from normc.update.kernels.language import only_compiles
from normc.update.program.build import build_of
from normc.update.runtime import layout
from tests.handmade import Small, plan_of, small_rows, train
from tests.optimizer.test_waking import Adapted
from tests.optimizer.test_waking import X as WAKING
from tests.ties import ROTATING, firm_bases
from tests.update.fused.interpreted import TARGET, farthest, give, interpreter, pair

pytest.importorskip("triton")
__all__ = ["interpreter"]  # a fixture of every test here

FEW = ("muon", "modular-dual", "adamw")


@pytest.mark.parametrize(
    "recipe",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in recipes],
)
def test_steps_in_kernels_equal_the_reference(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if recipe in ROTATING:
        firm_bases(monkeypatch)
    torch.manual_seed(0)
    ours = Small()
    plain, start = copy.deepcopy(ours), copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe)
    train(ours, [build(plan, ours.named_parameters(), lr=5e-3, backend=TARGET, compile=False)], 3)
    train(plain, [build(plan, plain.named_parameters(), lr=5e-3, backend="reference")], 3)
    # Adam raises what rounding leaves in null spaces, and Newton-Schulz that again.
    assert farthest(ours, plain) < (1e-4 if recipe == "soap-muon" else 2e-5)
    assert farthest(ours, start) > 1e-4


@pytest.mark.parametrize("recipe", ["muon", "scion", "modular-dual"])
def test_matrices_in_half_precision_are_measured_where_they_are_written(recipe: str) -> None:
    torch.manual_seed(0)
    ours = Small()
    plain = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe)
    fast = build(plan, ours.named_parameters(), lr=5e-3, backend="cuda:sm_90", compile=False)
    assert "unit=True" in fast.source and "measured(" in fast.source
    slow = build(plan, plain.named_parameters(), lr=5e-3, backend="reference")
    for step in range(3):
        give([ours, plain], step, (1,) if step == 1 else ())
        fast.step()
        slow.step()
    assert farthest(ours, plain) < 2e-3  # fp16 within


def test_null_spaces_stay_out_of_an_update() -> None:
    """A gradient of half the rank: entries rounded to bf16 on their way would double the error of the polynomial."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(64, 32, generator=generator), torch.randn(32, 128, generator=generator)
    model = nn.Sequential(nn.Linear(16, 128, bias=False), nn.Linear(128, 64, bias=False), nn.Linear(64, 16, bias=False))
    express: dict[str, str | int | float | bool | None] = {"polynomial": "polar-express", "ns_steps": 5}
    opt: torch.optim.Optimizer = compile_(
        model, torch.zeros(2, 16), lr=1.0, recipe="muon", options=express, backend="cuda:sm_90", compile=False,
        momentum=0.0, weight_decay=(0.0, 0.0),
    )  # fmt: skip
    middle = dict(model.named_parameters())["1.weight"]
    before = middle.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    middle.grad = left @ right
    opt.step()
    step = (before - middle.detach()).double()
    u, _, v = torch.linalg.svd((left @ right).double(), full_matrices=False)
    exact = u[:, :32] @ v[:32]
    step *= (step * exact).sum() / step.square().sum()
    assert float((step - exact).norm() / exact.norm()) < 0.12


@pytest.mark.parametrize("recipe", ["muon", "modular-dual", "adamw"])
def test_what_was_frozen_or_not_reached_steps_in_kernels_when_it_wakes(recipe: str) -> None:
    ours, plain = Adapted(), Adapted()
    start = copy.deepcopy(ours)
    opts: list[Any] = [
        compile_(model, WAKING, lr=5e-3, recipe=recipe, backend=backend, compile=False)
        for model, backend in ((ours, TARGET), (plain, "reference"))
    ]
    for chosen in "AABBA":
        for model, opt in zip((ours, plain), opts, strict=True):
            model.use(chosen)
            model.base.requires_grad_(chosen == "B")
            model.zero_grad()
            model(WAKING).square().mean().backward()
            opt.step()
    assert all(bucket.fused is not None for bucket in opts[0].update.buckets)
    assert farthest(ours, plain) < 2e-5
    assert all(not torch.equal(one, other) for one, other in zip(ours.parameters(), start.parameters(), strict=True))


def test_buckets_of_the_common_recipes_are_fused() -> None:
    for recipe in ("muon", "modular-dual", "scion", "uscion", "adamw", "lion", "signum", "sgd"):
        update = update_of(plan_of(small_rows(Small()), recipe), build_of(TARGET)).update
        assert all(bucket.fused is not None for bucket in update.buckets)
    for recipe in ("soap", "shampoo", "scion-light"):
        update = update_of(plan_of(small_rows(Small()), recipe), build_of(TARGET)).update
        assert all(bucket.fused is None for bucket in update.buckets)


def test_missing_gradients_leave_their_parameters_and_counts_alone() -> None:
    ours, fast, plain, slow = pair()
    for step, without in enumerate([(), (1, 4), (), (0,), (1, 4), ()]):
        give([ours, plain], step, without)
        before = [parameter.detach().clone() for parameter in ours.parameters()]
        fast.step()
        slow.step()
        after = list(ours.parameters())
        assert all(torch.equal(before[index], after[index]) for index in without)
    assert farthest(ours, plain) < 2e-5
    counts = [float(state["step"]) for state in fast.state.values() if "step" in state]
    assert sorted(set(counts)) == [4.0, 5.0, 6.0]


def test_rates_change_from_step_to_step_also_as_tensors() -> None:
    ours, fast, plain, slow = pair()
    for step, lr in enumerate([1e-3, torch.tensor(3e-3), 0.0, 2e-3]):
        give([ours, plain], step)
        for opt in (fast, slow):
            for group in opt.param_groups:
                group["lr"] = lr
            opt.step()
    assert farthest(ours, plain) < 2e-5


def test_resuming_from_a_checkpoint_is_bit_equal() -> None:
    ours, fast, _, _ = pair("adamw")
    for step in range(2):
        give([ours], step)
        fast.step()
    file = io.BytesIO()
    torch.save({"model": ours.state_dict(), "optimizer": fast.state_dict()}, file)
    other, again, _, _ = pair("adamw")
    file.seek(0)
    saved = torch.load(file)
    other.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    for step in range(2, 4):
        give([ours, other], step)
        fast.step()
        again.step()
    assert farthest(ours, other) == 0.0


def test_parameters_with_other_memory_are_found_again() -> None:
    """Data replaced, in another layout of memory, and gradients that lie otherwise."""
    ours, fast, plain, slow = pair()
    for step in range(4):
        give([ours, plain], step)
        for parameter in ours.parameters():
            if step == 1:
                parameter.data = parameter.data.clone()
            if step == 2 and parameter.dim() == 2:
                parameter.data = parameter.data.t().contiguous().t()
            if step == 3 and parameter.dim() == 2:
                grad = parameter.grad
                assert isinstance(grad, Tensor)
                parameter.grad = grad.t().contiguous().t()
        fast.step()
        slow.step()
    assert farthest(ours, plain) < 2e-5


def test_narrow_weights_are_rounded_once_a_step() -> None:
    torch.manual_seed(0)
    ours = Small().half()
    plan = plan_of(small_rows(ours), "muon")
    lists = copy.deepcopy(ours)
    fast = build(plan, ours.named_parameters(), lr=5e-3, backend=TARGET, compile=False)
    slow = build(plan, lists.named_parameters(), lr=5e-3, backend="cpu:fp32", compile=False)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for one, other in zip(ours.parameters(), lists.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator).half()
            other.grad = one.grad.clone()
        fast.step()
        slow.step()
    assert {state["momentum_buffer"].dtype for state in fast.state.values() if "momentum_buffer" in state} == {
        torch.float32
    }
    assert farthest(ours, lists) <= 2**-9  # the last bit of a float16 below 4


def test_states_that_are_cleared_start_anew() -> None:
    ours, fast, plain, slow = pair("adamw")
    for step in range(4):
        give([ours, plain], step)
        if step == 2:
            fast.state.clear()
            slow.state.clear()
        fast.step()
        slow.step()
    assert farthest(ours, plain) < 2e-5
    assert {float(state["step"]) for state in fast.state.values()} == {2.0}


def test_stacks_of_several_dtypes_are_stepped_all_the_same() -> None:
    torch.manual_seed(0)
    ours = Small()
    lists = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), "muon")
    for model in (ours, lists):
        model.up[1].half()
    fast = build(plan, ours.named_parameters(), lr=5e-3, backend=TARGET, compile=False)
    slow = build(plan, lists.named_parameters(), lr=5e-3, backend="cpu:fp32", compile=False)
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        for one, other in zip(ours.parameters(), lists.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator).to(one.dtype)
            other.grad = one.grad.clone()
        fast.step()
        slow.step()
    assert farthest(ours, lists) <= 2**-9


@pytest.mark.parametrize("target", [TARGET, "cuda:sm_90"])
def test_the_pass_ahead_of_the_first_step_changes_nothing(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    ours = Small()
    opt = build(plan_of(small_rows(ours), "muon"), ours.named_parameters(), lr=5e-3, backend=target, compile=False)
    passes = []

    def held() -> list[Tensor]:
        states = [value for state in opt.state.values() for value in state.values() if isinstance(value, Tensor)]
        pairs = [(p.detach(), p.grad) for p in ours.parameters()]
        return [torch.get_rng_state(), *states, *(tensor for pair in pairs for tensor in pair if tensor is not None)]

    def ahead(launch: Callable[[], None], device: torch.device) -> None:
        before = [tensor.clone() for tensor in held()]
        context = copy_context()
        context.run(only_compiles.set, True)
        context.run(launch)
        assert len(before) == len(held()) and all(map(torch.equal, before, held()))
        passes.append(device)

    monkeypatch.setattr(layout, "compile_ahead", ahead)
    for step in range(3):
        start = copy.deepcopy(ours)
        give([ours], step, (1,) if step == 1 else ())
        opt.step()
        assert farthest(ours, start) > 1e-4
        assert len(passes) == (1, 2, 2)[step]  # one for each set of parameters that have gradients


def test_stacks_that_differ_in_size_alone_share_their_kernels() -> None:
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 12, bias=False), nn.Linear(12, 5))
    source = compile_(model, torch.zeros(1, 4), lr=0.1, recipe="muon", backend=TARGET).source
    assert source.count("\ndef fused_spectral") == 2
    assert source.count("\ndef before_spectral") == 1
