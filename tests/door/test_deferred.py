"""A plan that is made at the model's first forward, and what hosts do to the model and the optimizer before it."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.optim.swa_utils import AveragedModel

import normc


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.head(torch.tanh(self.inner(x))) * scale


class Lit(nn.Module):
    """As Lightning has it: a host calls training_step, which calls a part of the module, never the module."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.logged: list[Any] = []
        self.steps = 0

    def log(self, name: str, value: Tensor) -> None:
        self.logged.append((name, float(value.detach())))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.steps += 1
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss


X = torch.linspace(-1, 1, 24).reshape(4, 6)


def made(**options: Any) -> tuple[Net, normc.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    return model, normc.compile(model, lr=0.01, compile=False, **options)


def step(call: Any, opt: normc.Optimizer) -> None:
    call(X).square().mean().backward()
    opt.step()
    opt.zero_grad()


def planned(opt: normc.Optimizer) -> bool:
    return bool(opt.update.ready)


def saved(model: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


def hooked(model: nn.Module) -> bool:
    return any(bool(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("when", ["before", "after", "in place", "whole graph before"])
def test_torch_compile_before_and_after(when: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    torch.manual_seed(0)
    model: Any = Net()
    whole = when.startswith("whole")
    given: Any = torch.compile(model, backend=counter, fullgraph=whole) if "before" in when else model
    opt = normc.compile(given, lr=0.01, compile=False)
    if when == "after":
        given = torch.compile(model, backend=counter)
    elif when == "in place":
        model.compile(backend=counter)
    step(given, opt)
    frames = counter.frame_count
    assert planned(opt) and frames == 1
    assert opt.plan.diff(normc.plan(Net(), X)) == ()
    for _ in range(3):
        step(given, opt)
    assert counter.frame_count == frames
    assert not hooked(model)


def test_a_whole_graph_that_is_compiled_later_says_what_to_do() -> None:
    torch._dynamo.reset()
    model, _ = made()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"give normc\.compile example_inputs"):
        torch.compile(model, backend="eager", fullgraph=True)(X)


def test_a_copy_waits_for_nothing_and_plans_nothing() -> None:
    model, opt = made()
    averaged = AveragedModel(model)
    twins = [copy.deepcopy(model), averaged, pickle.loads(pickle.dumps(model))]
    twins.append(torch.load(io.BytesIO(saved(model)), weights_only=False))
    assert b"normc" not in saved(model)  # whoever loads it needs no normc
    for twin in twins:
        assert not hooked(twin)
        twin(X)
    assert not planned(opt)
    step(model, opt)
    assert planned(opt)
    plan = opt.plan
    model.inner.requires_grad_(False)
    step(model, opt)
    for twin in twins:
        twin(X)
        saved(twin)
    assert opt.plan is plan
    saved(model)
    assert type(model._forward_pre_hooks) is type(nn.Linear(1, 1)._forward_pre_hooks)


def test_hooks_of_others_stay_and_can_be_removed() -> None:
    torch.manual_seed(0)
    model, calls = Net(), list[str]()
    first = model.register_forward_pre_hook(lambda *_: calls.append("first"))
    opt = normc.compile(model, lr=0.01, compile=False)
    second = model.register_forward_pre_hook(lambda *_, **__: calls.append("second"), with_kwargs=True)
    twin = copy.deepcopy(model)
    twin(X)
    assert calls == ["first", "second"] and not planned(opt)
    step(model, opt)
    assert planned(opt) and calls == ["first", "second"] * 2
    first.remove()
    second.remove()
    model(X)
    assert len(calls) == 4 and not hooked(model)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "deepcopy, optimizer first"])
def test_a_model_and_its_optimizer_are_copied_together(how: str) -> None:
    model, opt = made(recipe="muon")
    if how == "pickle":
        twin, other = pickle.loads(pickle.dumps((model, opt)))
    elif how == "deepcopy":
        twin, other = copy.deepcopy((model, opt))
    else:
        other, twin = copy.deepcopy((opt, model))
    step(twin, other)
    assert planned(other) and not planned(opt)
    step(model, opt)
    assert opt.plan == other.plan
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine is not theirs


def work(model: nn.Module, opt: normc.Optimizer, answers: Any) -> None:
    step(model, opt)
    answers.put([parameter.detach().numpy() for parameter in model.parameters()])


@pytest.mark.slow
def test_a_spawned_worker_plans_its_own() -> None:
    model, opt = made(recipe="muon", backend="cpu:fp32")
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    worker = context.Process(target=work, args=(model, opt, answers))
    worker.start()
    found = answers.get()
    worker.join()
    assert not planned(opt)
    twin, other = made(recipe="muon", backend="cpu:fp32")
    step(twin, other)
    for mine, theirs in zip(twin.parameters(), found, strict=True):
        torch.testing.assert_close(mine.detach(), torch.from_numpy(theirs))


def test_a_training_step_that_never_calls_the_module() -> None:
    torch.manual_seed(0)
    model = Lit()
    opt = normc.compile(model, lr=0.01, recipe="muon", compile=False)
    assert not hooked(copy.deepcopy(model)) and saved(model)
    twin = copy.deepcopy(model)
    twin.training_step((X, X[:, :3]), 0)
    assert (twin.steps, model.steps, planned(opt)) == (1, 0, False)

    def closure() -> Tensor:
        loss = model.training_step((X, X[:, :3]), 0)
        loss.backward()
        return loss

    before = model.net.head.weight.detach().clone()
    assert opt.step(closure).isfinite()
    assert not torch.equal(model.net.head.weight, before)
    assert [row.role for row in opt.plan.rows] == ["input", "bias", "output", "bias"]
    assert model.steps == 1 and len(model.logged) == 1
    assert not {"training_step", "forward", "log"} & set(vars(model)) and not hooked(model)


def test_a_training_step_that_calls_the_module_is_planned_by_its_forward() -> None:
    class Calls(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return self(batch, scale=2.0).square().mean()

    torch.manual_seed(0)
    model = Calls()
    opt = normc.compile(model, lr=0.01, compile=False)
    # A host asks whose method it is.
    assert model.training_step.__wrapped__.__code__ is Calls.training_step.__code__  # type: ignore[attr-defined]
    model.training_step(X, 0).backward()
    opt.step()
    assert opt.plan.hash == normc.plan(Net(), ((X,), {"scale": 2.0})).hash
    assert "training_step" not in vars(model)


def test_a_plan_that_fails_is_tried_again_at_the_next_forward() -> None:
    model, opt = made(recipe="muon")
    other, wide = made(recipe="muon")
    step(other, wide)
    bad = wide.state_dict()
    bad["rows"] = {name: what.replace("scale 1", "scale 3") for name, what in bad["rows"].items()}
    for group in bad["param_groups"]:
        group["plan"] = "0" * 64
    opt.load_state_dict(bad)
    with pytest.raises(normc.NormcError, match="another plan") as caught:
        model(X)
    assert "inner.weight: input, lmo, spectral, scale 3" in str(caught.value)
    assert not planned(opt)
    opt.load_state_dict(wide.state_dict())
    step(model, opt)
    assert planned(opt)


def test_two_optimizers_of_one_model_are_both_planned() -> None:
    model, first = made()
    second = normc.compile(model, lr=0.01, recipe="muon", compile=False)
    twin = copy.deepcopy(model)
    assert not hooked(twin) and b"normc" not in saved(model)
    model(X)
    assert planned(first) and planned(second) and not hooked(model)


def test_an_optimizer_that_is_gone_is_not_planned() -> None:
    model, opt = made()
    del opt
    model(X)
    assert not hooked(model)


def test_evaluating_first_plans_the_same() -> None:
    model, opt = made()
    model.eval()
    with torch.inference_mode():
        model(X)
    model.train()
    assert planned(opt)
    step(model, opt)
    assert opt.plan.hash == normc.plan(Net(), X).hash


def test_an_early_checkpoint_keeps_its_values_of_groups() -> None:
    model, opt = made(recipe="muon", weight_decay=(0.3, 0.1), momentum=(0.8, 0.7))
    step(model, opt)
    again, later = made(recipe="muon")
    later.load_state_dict(opt.state_dict())
    later.param_groups[1]["lr"] = 0.5
    again(X)
    assert [group["weight_decay"] for group in later.param_groups] == [0.3, 0.1]
    assert [group["momentum"] for group in later.param_groups] == [0.8, 0.7]
    assert [group["lr"] for group in later.param_groups] == [0.01, 0.5]


class Mistaken(Net):
    """As timm's models are where the config is that of other weights: it says what its own forward refuses."""

    pretrained_cfg: ClassVar[dict[str, Any]] = {"input_size": (3, 8, 8)}


def test_a_model_whose_config_is_wrong_is_planned_on_its_first_batch() -> None:
    model = Mistaken()
    opt = normc.compile(model, lr=0.01, compile=False)
    assert not planned(opt)
    step(model, opt)
    assert opt.plan.hash == normc.plan(model, X).hash
    with pytest.raises(normc.NormcError, match=r"config says\n  fix: pass example_inputs"):
        normc.plan(model)
    with pytest.raises(normc.NormcError, match="fails on these example inputs"):
        normc.compile(model, torch.zeros(2, 5))
