"""Kernels and graphs on a GPU, against the float64 reference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from normc.compiler import build
from normc.update.runtime import fused as runtime
from tests.handmade import Small, draft, plan_of, small_rows
from tests.update.fused.interpreted import farthest, give

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("recipe", ["muon", "modular-dual", "scion", "adamw", "lion", "almond", "normuon"])
def test_steps_on_a_gpu_equal_the_reference(recipe: str, graphs: bool) -> None:
    """Also with rates that change, new gradients every step, and parameters without one now and then."""
    torch.manual_seed(0)
    ours = Small().cuda()
    plain = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe)
    fast = build(plan, ours.named_parameters(), lr=5e-3, backend="cuda:sm_70", compile=graphs)
    slow = build(plan, plain.named_parameters(), lr=5e-3, backend="reference")
    for step in range(8):
        give([ours, plain], step, (1, 4) if step in (3, 6, 7) else ())
        for opt in (fast, slow):
            for group in opt.param_groups:
                group["lr"] = 5e-3 / (1 + step)
            opt.step()
            opt.zero_grad(set_to_none=True)
    assert farthest(ours, plain) < 5e-5


def test_a_graph_is_replayed_and_reads_new_gradients() -> None:
    torch.manual_seed(0)
    ours = Small().cuda()
    opt = build(plan_of(small_rows(ours), "muon"), ours.named_parameters(), lr=5e-3)
    for step in range(6):
        give([ours], step)
        before = [parameter.detach().clone() for parameter in ours.parameters()]
        opt.step()
        assert all(not torch.equal(old, new) for old, new in zip(before, ours.parameters(), strict=True))
    launcher = opt._launcher
    assert launcher is not None
    assert [layout.graph is not None for layout in launcher._layouts.values()] == [True]


def test_narrow_states_and_their_dither_under_a_graph() -> None:
    """Bit by bit as without a graph, and resumed; each replay has new dither."""
    options: dict[str, Any] = {"lr": 5e-3, "state_dtype": torch.bfloat16, "stochastic_rounding": True}
    torch.manual_seed(0)
    ours = Small().cuda().bfloat16()
    plan = plan_of(small_rows(ours), "adamw")
    models = [ours, copy.deepcopy(ours), copy.deepcopy(ours)]
    opts = [
        build(plan, m.named_parameters(), compile=c, **options)
        for m, c in zip(models, (True, False, True), strict=True)
    ]
    for step in range(8):
        if step == 5:
            models[2].load_state_dict(models[0].state_dict())
            opts[2].load_state_dict(copy.deepcopy(opts[0].state_dict()))
        for model, opt in zip(models, opts, strict=True):
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)
            if step >= 5 or opt is not opts[2]:
                opt.step()
    launcher = opts[0]._launcher
    assert launcher is not None
    assert [layout.graph is not None for layout in launcher._layouts.values()] == [True]
    assert farthest(models[0], models[1]) == farthest(models[0], models[2]) == 0.0
    weight = torch.nn.Parameter(torch.ones(256, 256, dtype=torch.bfloat16, device="cuda"))
    small = build(plan_of([draft("w", (256, 256), "hidden")], "sgd"), [("w", weight)],
                  momentum=0.0, weight_decay=0.0, **{**options, "lr": 1.0})  # fmt: skip
    for _ in range(64):
        weight.grad = torch.full_like(weight, 2.0**-14)
        small.step()
    assert float(1.0 - weight.detach().double().mean()) == pytest.approx(2.0**-8, rel=0.05)


@pytest.mark.parametrize("recipe", ["muon", "adamw", "modular-dual", "soap"])
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16, torch.int8])
def test_states_on_the_host_step_to_the_bit_as_those_on_the_device(
    recipe: str, state_dtype: torch.dtype | None
) -> None:
    """Kernels read and write pinned memory, under a graph as well; lists copy it. A copy of the optimizer goes on."""
    torch.manual_seed(0)
    ours = Small().cuda()
    other = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe)
    near, far = (
        build(plan, model.named_parameters(), lr=5e-3, state_dtype=state_dtype, state_device=place)
        for model, place in ((ours, None), (other, "cpu"))
    )
    for step in range(8):
        give([ours, other], step, (1, 4) if step == 3 else ())
        if step == 5:
            other, far = copy.deepcopy((other, far))
            give([ours, other], step)
        near.step()
        far.step()
    assert farthest(ours, other) == 0.0
    held = [value for state in far.state_dict()["state"].values() for value in state.values() if value.dim()]
    assert all(not value.is_cuda for value in held)
    far.load_state_dict(copy.deepcopy(near.state_dict()))
    near.load_state_dict(copy.deepcopy(far.state_dict()))
    for step in range(8, 10):
        give([ours, other], step)
        near.step()
        far.step()
    assert farthest(ours, other) == 0.0


@pytest.mark.parametrize("recipe", ["muon", "adamw", "modular-dual"])
def test_codes_on_a_gpu_are_those_on_lists(recipe: str) -> None:
    """Under a graph; where rounding before it tips a code over, by one. Resumed to the bit."""
    torch.manual_seed(0)
    ours = Small().cuda()
    plain, start = copy.deepcopy(ours), copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe)
    options: dict[str, Any] = {"lr": 5e-3, "state_dtype": torch.int8}
    fast = build(plan, ours.named_parameters(), **options)
    slow = build(plan, plain.named_parameters(), compile=False, without=["kernels"], **options)
    for step in range(6):
        give([ours, plain], step)
        fast.step()
        slow.step()
    assert farthest(ours, plain) < 1e-2
    pairs = zip(ours.parameters(), plain.parameters(), strict=True)
    for one, two in pairs:
        for name, value in fast.state[one].items():
            assert value.dtype == slow.state[two][name].dtype
    start.load_state_dict(ours.state_dict())
    again = build(plan, start.named_parameters(), **options)
    again.load_state_dict(copy.deepcopy(fast.state_dict()))
    for step in range(6, 10):
        give([ours, start], step)
        fast.step()
        again.step()
    assert farthest(ours, start) == 0.0


@pytest.mark.parametrize("width", [160, 768, 1000, 1001])
@pytest.mark.parametrize("recipe", ["muon", "modular-dual"])
def test_half_precision_steps_stay_near_the_reference(recipe: str, width: int) -> None:
    """Matrices too large for a small kernel: norms measured where stacks are written, in turns, under a graph."""
    torch.manual_seed(0)
    ours = Small(width, 2).cuda()
    plain, start = copy.deepcopy(ours), copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe)
    fast = build(plan, ours.named_parameters(), lr=1e-2)
    slow = build(plan, plain.named_parameters(), lr=1e-2, backend="reference")
    assert "unit=True" in fast.source
    for step in range(5):
        give([ours, plain], step, (1, 4) if step == 2 else ())
        fast.step()
        slow.step()
    for one, other, old in zip(ours.parameters(), plain.parameters(), start.parameters(), strict=True):
        moved = (other - old).double().norm()
        assert float((one - other).double().norm() / moved) < 0.03


def test_graphs_side_by_side_share_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is any of it anyone else's, after cuBLAS has been told to forget its workspaces, as torch.compile does."""
    monkeypatch.setattr(runtime, "AT_ONCE", 2**20)
    torch.manual_seed(0)
    ours = Small(768, 6).cuda()
    plain, start = copy.deepcopy(ours), copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), "muon")
    fast = build(plan, ours.named_parameters(), lr=1e-2)
    slow = build(plan, plain.named_parameters(), lr=1e-2, backend="reference")
    for step in range(8):
        give([ours, plain], step)
        if step >= 4:
            torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.empty_cache()
            taken = [torch.full((2**22,), float("nan"), device="cuda") for _ in range(32)]
        fast.step()
        slow.step()
    assert all(bool(own.isnan().all()) for own in taken)
    for one, other, old in zip(ours.parameters(), plain.parameters(), start.parameters(), strict=True):
        moved = (other - old).double().norm()
        assert float((one - other).double().norm() / moved) < 0.03
