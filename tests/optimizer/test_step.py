"""What hosts do to a torch optimizer while training, each seen to break a naive one."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from normc.compiler import build, defer
from normc.errors import NormcError, NormcWarning
from normc.optimizer import Optimizer
from normc.recipe.by_name import recipes
from normc.update.program.module import load
from tests.handmade import Small, draft, loss_of, plan_of, small_rows, train

pytestmark = pytest.mark.usefixtures("updates_once")


def made(recipe: str = "scion", seed: int = 0, **options: Any) -> tuple[Small, Optimizer]:
    torch.manual_seed(seed)
    model = Small()
    options = {"lr": 1e-2, "compile": False} | options
    return model, build(plan_of(small_rows(model), recipe), model.named_parameters(), **options)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_groups_hold_matrices_first_and_names_and_plan() -> None:
    model, opt = made("muon")
    assert isinstance(opt, torch.optim.Optimizer)
    assert len(opt.param_groups) == 2
    assert opt.param_groups[0]["param_names"][0] == "up.0.weight"
    assert {name.split(".")[0] for name in opt.param_groups[0]["param_names"]} == {"up", "down"}
    named = dict(model.named_parameters())
    for group in opt.param_groups:
        assert [named[name] for name in group["param_names"]] == group["params"]
        assert group["plan"] == opt.plan.hash
    assert [group["weight_decay"] for group in opt.param_groups] == [0.1, 0.01]
    assert "momentum" in opt.defaults
    assert not hasattr(opt, "_step_supports_amp_scaling")
    assert not hasattr(type(opt), "train")
    assert not hasattr(type(opt), "eval")


def test_options_of_groups() -> None:
    _, opt = made("muon", weight_decay=(0.3, 0.0), momentum=0.8)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.3, 0.0]
    assert [group["momentum"] for group in opt.param_groups] == [0.8, 0.8]
    for bad in ({"weight_deca": 0.1}, {"lr": -1.0}, {"momentum": (1.0, 2.0, 3.0)}):
        with pytest.raises(NormcError):
            made("muon", **bad)
    with pytest.raises(NormcError, match="backward on the negated loss"):
        made("muon", maximize=True)
    with pytest.raises(NormcError, match="leave it out"):
        made("muon", fused=True)


def test_closure_runs_with_gradients_and_its_loss_comes_back() -> None:
    model, opt = made()

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = opt.step(closure)
    assert loss.requires_grad
    assert opt.step() is None


@pytest.mark.parametrize("recipe", list(recipes))
def test_a_step_of_zeros_at_lr_zero_makes_all_state_and_changes_nothing(recipe: str) -> None:
    model, opt = made(recipe, lr=0.0)
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    opt.step()
    assert torch.equal(weights(model), before)
    kept = any(kind != "grad" for bucket in opt.update.buckets for _, kind in bucket.states)
    assert all(bool(opt.state[parameter]) == kept for parameter in model.parameters())
    assert all(torch.isfinite(value).all() for state in opt.state.values() for value in state.values())


def test_zero_gradients_at_a_real_lr_stay_finite() -> None:
    model, opt = made()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    opt.step()
    assert torch.isfinite(weights(model)).all()


@pytest.mark.parametrize("recipe", ["scion", "muon"])
def test_parameters_without_gradient_are_left_alone(recipe: str) -> None:
    model, opt = made(recipe)
    train(model, [opt], 2)
    other_model, other = copy.deepcopy((model, opt))
    loss_of(model, 5).backward()
    loss_of(other_model, 5).backward()
    skipped = ["up.1.weight", "norm.0.bias", "head.weight"]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state = {name: copy.deepcopy(opt.state[dict(model.named_parameters())[name]]) for name in skipped}
    for name, parameter in model.named_parameters():
        parameter.grad = None if name in skipped else parameter.grad
    opt.step()
    other.step()
    for (name, mine), full in zip(model.named_parameters(), other_model.parameters(), strict=True):
        if name in skipped:
            assert torch.equal(mine, before[name])
            assert all(torch.equal(opt.state[mine][key], value) for key, value in state[name].items())
        else:
            torch.testing.assert_close(mine, full, rtol=0, atol=1e-6)


def test_hosts_may_replace_groups_lr_and_parameters() -> None:
    model, opt = made()
    reference_model, reference = made()
    opt.load_state_dict(opt.state_dict())
    opt.param_groups[0]["lr"] = torch.tensor(1e-2)
    train(model, [opt], 2)
    train(reference_model, [reference], 2)
    assert torch.equal(weights(model), weights(reference_model))
    # As FSDP2 under accelerate: other tensors take the parameters' places in the groups.
    twin = copy.deepcopy(model)
    swap: dict[torch.Tensor, torch.Tensor] = dict(zip(model.parameters(), twin.parameters(), strict=True))
    for group in opt.param_groups:
        group["params"] = [swap[parameter] for parameter in group["params"]]
    for parameter in list(opt.state):
        opt.state[swap[parameter]] = opt.state.pop(parameter)
    train(twin, [opt], 2, 2)
    train(reference_model, [reference], 2, 2)
    assert torch.equal(weights(twin), weights(reference_model))


@pytest.mark.parametrize("recipe", ["scion", "modular-dual"])
def test_no_schedule_recompiles(recipe: str) -> None:
    load.cache_clear()  # a function that another test compiled would not be counted
    counters = torch._dynamo.utils.counters
    counters.clear()
    model, opt = made(recipe, compile=True)
    train(model, [opt], 1)
    compiled = counters["stats"]["unique_graphs"]
    assert compiled > 0
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 0.02, total_steps=20)
    momenta = set()
    for seed in range(4):
        train(model, [opt], 1, seed)
        schedule.step()
        momenta.add(opt.param_groups[1]["momentum"])
    opt.param_groups[0]["lr"] = torch.tensor(3e-3)
    model.head.weight.requires_grad_(False)
    model.up[0].weight.requires_grad_(False)
    train(model, [opt], 2)
    assert counters["stats"]["unique_graphs"] == compiled
    assert len(momenta) == 4


def test_schedulers_move_both_groups() -> None:
    model, opt = made()
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 0.5**step)
    train(model, [opt], 1)
    schedule.step()
    assert [group["lr"] for group in opt.param_groups] == [5e-3, 5e-3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_parameters_keep_wide_state_and_round_once(dtype: torch.dtype) -> None:
    wide, narrow = torch.nn.Parameter(torch.ones(6, 4)), torch.nn.Parameter(torch.ones(6, 4, dtype=dtype))
    plan = plan_of([draft("w", (6, 4), "hidden")])
    grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    for parameter in (wide, narrow):
        opt = build(plan, [("w", parameter)], lr=0.01, compile=False)
        parameter.grad = grad.to(parameter.dtype)
        opt.step()
        assert opt.state[parameter]["momentum_buffer"].dtype == torch.float32
    assert torch.equal(narrow, wide.detach().to(dtype))


def test_gradient_scaler_skips_a_step_with_overflow() -> None:
    model, opt = made()
    before = weights(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(loss_of(model, 0)).backward()
    model.head.weight.grad[0, 0] = float("inf")  # type: ignore[index]
    scaler.step(opt)
    scaler.update()
    assert torch.equal(weights(model), before)
    assert not opt.state
    opt.zero_grad()
    scaler.scale(loss_of(model, 0)).backward()
    scaler.step(opt)
    assert not torch.equal(weights(model), before)


def test_loss_scale_changes_no_bit() -> None:
    results = []
    for scale in (1.0, 1024.0):
        model, opt = made("uscion")
        for seed in range(3):
            (loss_of(model, seed) * scale).backward()
            opt.step()
            opt.zero_grad()
        results.append(weights(model))
    assert torch.equal(*results)


def test_mistakes_are_explained() -> None:
    model, opt = made()
    with pytest.raises(NormcError, match="can't be added"):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    plan = opt.plan
    with pytest.raises(NormcError, match="without names"):
        build(plan, model.parameters(), lr=0.1)  # type: ignore[arg-type]
    named = dict(model.named_parameters())
    with pytest.raises(NormcError, match="no parameter 'other'"):
        build(plan, [*named.items(), ("other", torch.nn.Parameter(torch.ones(1)))], lr=0.1)
    with pytest.raises(NormcError, match=r"'down.0.weight' and 15 more"):
        build(plan, [("up.0.weight", named["up.0.weight"])], lr=0.1)
    flat = torch.nn.Parameter(named["up.0.weight"].detach().flatten())
    with pytest.raises(NormcError, match="use_orig_params"):
        build(plan, (named | {"up.0.weight": flat}).items(), lr=0.1)


def test_bad_gradients_are_explained() -> None:
    embed = torch.nn.Embedding(5, 4, sparse=True)
    opt = build(plan_of([draft("weight", (5, 4), "embedding")]), embed.named_parameters(), lr=0.1, compile=False)
    embed(torch.tensor([1])).sum().backward()
    with pytest.raises(NormcError, match="sparse"):
        opt.step()
    idle = torch.nn.Parameter(torch.ones(2))
    opt = build(plan_of([draft("w", (2,), "unused")]), [("w", idle)], lr=0.1)
    opt.step()
    idle.grad = torch.ones(2)
    with pytest.raises(NormcError, match="none reaches it"):
        opt.step()


def test_names_in_wrappers_and_aliases_are_understood() -> None:
    model, _ = made()
    plan = plan_of([*small_rows(model)[1:], draft("embed.weight", (11, 16), "embedding", aliases=("tied",))])
    named = [(f"_orig_mod.module.{name}", parameter) for name, parameter in model.named_parameters()]
    named[0] = ("tied", named[0][1])
    assert len(build(plan, named, lr=0.1).param_groups[0]["params"]) == 6


@pytest.mark.parametrize("recipe", ["scion", "muon"])
def test_copies_and_pickles_go_on_alike(recipe: str) -> None:
    model, opt = made(recipe)
    train(model, [opt], 2)
    assert opt.plan.by_name  # fills a cache that can't be pickled
    twins = [copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))]
    train(model, [opt], 2, 2)
    for twin_model, twin in twins:
        train(twin_model, [twin], 2, 2)
        assert torch.equal(weights(twin_model), weights(model))
        assert twin.source == opt.source
        with pytest.raises(NormcError):
            twin.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})


def test_an_optimizer_may_get_its_plan_later() -> None:
    torch.manual_seed(0)
    model = Small()
    opt = defer(recipes["scion"], model.named_parameters(), lr=1e-2, compile=False)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=9)
    groups = opt.param_groups
    opt.load_state_dict(opt.state_dict())
    for use in (opt.step, lambda: opt.plan, lambda: opt.source):
        with pytest.raises(NormcError, match="forward"):
            use()
    assert len(opt.param_groups[0]["params"]) == 8
    with pytest.raises(NormcError, match="recipe"):
        opt.adopt(plan_of(small_rows(model), "muon"))
    opt.adopt(plan_of(small_rows(model), "scion"))
    assert len(groups) == len(opt.param_groups) == 2
    assert len(opt.param_groups[0]["params"]) == 6
    before = weights(model)
    train(model, [opt], 1)
    schedule.step()
    assert not torch.equal(weights(model), before)


def test_without_a_compiler_the_same_code_runs_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> Any:
        def call(*stacks: torch.Tensor) -> None:
            raise RuntimeError("no working C++ compiler was found")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    model, opt = made(compile=True)
    plain_model, plain = made(compile=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, [opt], 2)
    ours = [warning for warning in caught if issubclass(warning.category, NormcWarning)]
    assert len(ours) == 1
    assert "no working C++ compiler" in str(ours[0].message)
    train(plain_model, [plain], 2)
    assert torch.equal(weights(model), weights(plain_model))


def test_hooks_around_a_step_run_as_torch_runs_them() -> None:
    """In the order, and on the arguments, of torch's own optimizers."""

    def diary_of(opt: torch.optim.Optimizer) -> list[tuple[str, int, Any]]:
        diary: list[tuple[str, int, Any]] = []
        note = lambda name: lambda opt, args, given: diary.append((name, len(args), sorted(given)))  # noqa: E731
        opt.step()
        handles = [
            opt.register_step_pre_hook(note("before")),
            opt.register_step_post_hook(note("after")),
            register_optimizer_step_pre_hook(note("before any")),
            register_optimizer_step_post_hook(note("after any")),
        ]
        opt.step()
        opt.step(lambda: 1.0)
        for handle in handles:
            handle.remove()
        opt.step()
        handle = opt.register_step_pre_hook(lambda opt, args, given: ((opt, lambda: 2.0), {}))
        diary.append(("loss", 0, opt.step()))
        handle.remove()
        return diary

    model, opt = made()
    other = torch.optim.SGD(model.parameters(), lr=0.0)
    assert diary_of(opt) == diary_of(other) != []


def test_a_profiled_step_has_its_name() -> None:
    _, opt = made()
    with torch.profiler.profile() as profile:
        opt.step()
    assert "Optimizer.step#Optimizer.step" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("hooked", [False, True])
def test_a_step_within_compiled_code_is_the_same_step(hooked: bool) -> None:
    model, opt = made()
    copied = copy.deepcopy(model)
    other = build(opt.plan, copied.named_parameters(), lr=1e-2, compile=False)
    seen: list[int] = []
    if hooked:
        other.register_step_post_hook(lambda *_: seen.append(1))
    whole = torch.compile(lambda: other.step(), backend="eager")
    for _ in range(2):
        for one, two in zip(model.parameters(), copied.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        opt.step()
        whole()
    assert torch.equal(weights(copied), weights(model))
    assert len(seen) == 2 * hooked
