"""What the host knows of the step before is dropped as soon as it is no longer so: kernels against the reference, with
Python's loops over parameters and with compiled ones.
"""

from __future__ import annotations

import copy
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.errors import NormcError
from normc.update.runtime import launcher, native, tables
from tests.handmade import Small, plan_of, small_rows
from tests.update.fused.interpreted import TARGET, farthest, give, interpreter

pytest.importorskip("triton")
__all__ = ["interpreter"]  # a fixture of every test here

Change = Callable[[nn.Module, torch.optim.Optimizer], object]


@pytest.fixture(scope="session")
def loops() -> native.Loops:
    """The compiled loops, from the cache of the user's own if they are there."""
    try:
        return native.compiled()
    except (OSError, ImportError, subprocess.SubprocessError) as error:
        pytest.skip(f"no compiled loops: {error}")


@pytest.fixture(autouse=True, params=["python", "native"])
def called(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Each test runs by Python's loops, then by compiled ones; counts how often these knew all that was asked."""
    counts: Counter[str] = Counter()
    own: SimpleNamespace | None = None
    if request.param == "native":
        compiled = request.getfixturevalue("loops")

        def counted(name: str) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                found = getattr(compiled, name)(*args)
                counts[name] += found not in (None, False)
                return found

            return call

        own = SimpleNamespace(**{name: counted(name) for name in ("look", "same", "holds", "named")})
    monkeypatch.setattr(launcher, "background", lambda wanted: SimpleNamespace(loops=own))
    yield counts
    assert (request.param == "native") == (counts["look"] > 0)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.dim() == 2]


def other_inner_dicts(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        opt.state[parameter] = {name: value.clone() * 0.5 for name, value in opt.state[parameter].items()}


def other_state_tensors(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for own in opt.state.values():
        for name in own:
            own[name] = own[name] * 0.5


def other_counts(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for own in opt.state.values():
        if "step" in own:
            own["step"] = torch.tensor(7.0)


def counts_in_place(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for own in opt.state.values():
        if "step" in own:
            own["step"].fill_(9.0)


def states_in_another_order(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in list(opt.state)[:3]:
        opt.state[parameter] = opt.state.pop(parameter)


def states_exchanged(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    first, second = matrices(model)[1:3]
    opt.state[first], opt.state[second] = opt.state[second], opt.state[first]


def inner_dicts_emptied(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in list(model.parameters())[1:]:
        opt.state[parameter].clear()


def all_states_cleared(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    opt.state.clear()


def another_state_dict(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    opt.state = copy.copy(opt.state)
    for parameter, own in opt.state.items():
        opt.state[parameter] = {name: value * 0.5 for name, value in own.items()}


def loaded(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    saved = copy.deepcopy(opt.state_dict())
    for own in saved["state"].values():
        for name in own:
            own[name] = own[name] * 0.5
    opt.load_state_dict(saved)


def other_groups(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    opt.param_groups = [{**group, "params": list(group["params"]), "lr": 2e-3} for group in opt.param_groups]


def other_data(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.5


def data_of_another_layout(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in matrices(model):
        parameter.data = parameter.data.t().contiguous().t()


def gradients_elsewhere(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad = parameter.grad * 0.5


def data_of_gradients(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.data = parameter.grad.data * 0.5


def gradients_of_another_layout(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in matrices(model):
        assert parameter.grad is not None
        parameter.grad = parameter.grad.t().contiguous().t()


def memory_read_otherwise(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    """The same objects at the same addresses, read in another order: a square gradient, transposed."""
    for parameter in matrices(model):
        assert parameter.grad is not None
        rows, columns = parameter.grad.shape
        parameter.grad.as_strided_((rows, columns), (1, rows))


def narrow_data_of_gradients(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.data = parameter.grad.data.round(decimals=1).bfloat16().to(torch.float64)


def gradients_of_another_dtype(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for parameter in matrices(model)[1:]:
        assert parameter.grad is not None
        parameter.grad.data = parameter.grad.data.double()


def gradients_of_a_subclass(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    class Marked(Tensor):
        """A tensor that is one in all but name."""

    for parameter in matrices(model):
        assert parameter.grad is not None
        parameter.grad = (parameter.grad * 0.5).as_subclass(Marked)


def a_parameter_exchanged(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    """The same object with another's memory, dtype and states' owner."""
    parameter = matrices(model)[1]
    other = nn.Parameter(parameter.detach() * 0.5)
    other.grad = parameter.grad
    torch.utils.swap_tensors(parameter, other)


def a_missing_gradient(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    matrices(model)[2].grad = None


CHANGES: list[Change] = [
    other_inner_dicts, other_state_tensors, other_counts, counts_in_place, states_in_another_order, states_exchanged,
    inner_dicts_emptied, all_states_cleared, another_state_dict, loaded, other_groups, other_data,
    data_of_another_layout, gradients_elsewhere, data_of_gradients, gradients_of_another_layout, memory_read_otherwise,
    narrow_data_of_gradients, gradients_of_another_dtype, gradients_of_a_subclass, a_parameter_exchanged,
    a_missing_gradient,
]  # fmt: skip


def fill(models: list[nn.Module], step: int) -> None:
    """New numbers in the gradients that there are: the same objects at the same addresses."""
    source = copy.deepcopy(models[0])
    give([source], step)
    for model in models:
        for mine, new in zip(model.parameters(), source.parameters(), strict=True):
            if mine.grad is not None:
                assert new.grad is not None
                mine.grad.copy_(new.grad)


# Compiled loops, which are what runs, meet all changes in every run of the tests; Python's, that they stand for, these.
BY_PYTHON = (other_state_tensors, gradients_elsewhere)
WAYS = [
    pytest.param(way, change, id=f"{way}-{change.__name__}", marks=() if quick else pytest.mark.slow)
    for change in CHANGES
    for way, quick in (("native", True), ("python", change in BY_PYTHON))
]


@pytest.mark.parametrize(("called", "change"), WAYS, indirect=["called"])
def test_a_change_between_two_steps_is_seen(change: Change) -> None:
    """Steps before it and after it have gradients of the same memory."""
    torch.manual_seed(0)
    ours = Small(width=8, layers=2)
    plain = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), "muon")
    fast = build(plan, ours.named_parameters(), lr=5e-3, backend=TARGET, compile=False)
    slow = build(plan, plain.named_parameters(), lr=5e-3, backend="reference")
    give([ours, plain], 0)
    for step in range(4):
        fill([ours, plain], step)
        if step == 2:
            before = copy.deepcopy(ours)
            change(ours, fast)
            change(plain, slow)
        fast.step()
        slow.step()
    assert farthest(ours, plain) < 2e-5
    assert farthest(ours, before) > 1e-4


@pytest.mark.parametrize("recipe", ["muon", "signum"])
def test_numbers_are_sent_if_they_changed(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a tensor's value changed in place; addresses of memory that stays are sent once."""
    sent: list[int] = []
    send = tables.HostBuffer.send

    def seen(self: Any, write: Callable[[Tensor], object]) -> None:
        sent.append(self.device.dtype.itemsize if self.device.is_floating_point() else 0)
        send(self, write)

    monkeypatch.setattr(tables.HostBuffer, "send", seen)
    torch.manual_seed(0)
    ours = Small(width=8, layers=1)
    plain = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe)
    fast = build(plan, ours.named_parameters(), lr=5e-3, backend=TARGET, compile=False)
    slow = build(plan, plain.named_parameters(), lr=5e-3, backend="reference")
    rate = torch.tensor(3e-3)
    give([ours, plain], 0)
    numbers = []
    for lr in (5e-3, 5e-3, rate, rate, rate.mul_(0.5) * 1.0, 1e-3):
        sent.clear()
        for opt in (fast, slow):
            for group in opt.param_groups:
                group["lr"] = lr
            opt.step()
        numbers.append(len([size for size in sent if size]))
        assert len(sent) - numbers[-1] == (1 if len(numbers) == 1 else 0)
    assert farthest(ours, plain) < 2e-5
    if not any("step" in own for own in fast.state.values()):
        assert numbers == [1, 0, 1, 0, 0, 1]


def test_layouts_outlive_states_that_come_later() -> None:
    """A parameter whose first gradient comes late has no tables made anew but its own."""
    torch.manual_seed(0)
    ours = Small(width=8, layers=2)
    plain = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), "muon")
    fast = build(plan, ours.named_parameters(), lr=5e-3, backend=TARGET, compile=False)
    slow = build(plan, plain.named_parameters(), lr=5e-3, backend="reference")
    layouts = []
    for step, without in enumerate([(1, 3), (), (1, 3), (), (1, 3)]):
        give([ours, plain], step, without)
        fast.step()
        slow.step()
        assert fast._launcher is not None
        layouts.append(list(fast._launcher._layouts.values()))
    assert farthest(ours, plain) < 2e-5
    assert all(found == layouts[1] for found in layouts[1:])


def test_a_rate_in_place_is_read_in_every_step() -> None:
    torch.manual_seed(0)
    ours = Small(width=8, layers=1)
    plain = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), "muon")
    fast = build(plan, ours.named_parameters(), lr=torch.tensor(5e-3), backend=TARGET, compile=False)
    slow = build(plan, plain.named_parameters(), lr=torch.tensor(5e-3), backend="reference")
    give([ours, plain], 0)
    for _ in range(3):
        for opt in (fast, slow):
            opt.step()
            for group in opt.param_groups:
                group["lr"].mul_(0.5)
    assert farthest(ours, plain) < 2e-5


def test_what_no_kernel_can_read_is_explained_in_later_steps_too() -> None:
    ours = Small(width=8, layers=1)
    plan = plan_of(small_rows(ours), "muon")
    opt = build(plan, ours.named_parameters(), lr=5e-3, backend=TARGET, compile=False)
    give([ours], 0)
    opt.step()
    assert ours.embed.weight.grad is not None
    ours.embed.weight.grad = ours.embed.weight.grad.to_sparse()
    with pytest.raises(NormcError, match="sparse"):
        opt.step()
    next(p for p in ours.parameters() if p is not ours.embed.weight).grad = None
    with pytest.raises(NormcError, match="sparse"):
        opt.step()
    give([ours], 1)
    opt.step()
    with pytest.raises(RuntimeError, match="size"):
        ours.embed.weight.grad = torch.zeros(3)
    ours.embed.weight.grad = None
    ours.embed.weight.data = torch.zeros(3, 8)
    ours.embed.weight.grad = torch.zeros(3, 8)
    with pytest.raises(NormcError, match="shape"):
        opt.step()
