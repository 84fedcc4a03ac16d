"""What torch's own tests ask of each of its optimizers, asked of normc's, recipe by recipe.

torch ships the inputs of its tests (torch.testing._internal.common_optimizers), not the tests (test/test_optim.py,
TestOptimRenewed). Both are written anew, for a weight, a bias and a loss like theirs: the inputs' package needs
expecttest, and importing it freezes the flags of torch.backends for the whole process. torch's `optests` are about ops.
`CHECKS` has torch's tests by name: the test here that asks the same, or why it doesn't apply.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from normc.compiler import build
from normc.errors import NormcError, NormcWarning
from normc.optimizer import Optimizer
from normc.plans.plan import NormPlan
from tests.handmade import draft, plan_of

RECIPES = ["auto", "muon", "scion", "scion-light", "normuon", "hyperball", "adamw", "adafactor", "lion", "sgd", "soap"]
DECAYING = ["auto", "muon", "normuon", "adamw", "lion", "sgd", "soap"]  # with a weight_decay in their groups
FLAG = "normc has no such flag: how an update runs is in its generated code, and tests/backends holds it to float64"

# torch's tests by name: the test of this file that asks the same, or the reason why it doesn't apply.
CHECKS: dict[str, str] = {
    "test_errors": "test_inputs_that_torch_refuses_are_refused",
    "test_forloop_goes_right_direction": "test_it_goes_down",
    "test_forloop_goes_right_direction_multigpu": "an update is generated for one device",
    "test_forloop_goes_right_direction_with_lrsched": "test_it_goes_down_under_torchs_schedulers",
    "test_param_group_with_lrscheduler_goes_right_direction": "test_it_goes_down_under_torchs_schedulers",
    "test_tensor_lr": "test_a_tensor_lr_is_a_float_lr",
    "test_tensor_lr_num_dim": "test_a_tensor_lr_is_a_float_lr",
    "test_param_groups_lr": "test_groups_have_an_lr_each",
    "test_param_groups_weight_decay": "test_groups_have_a_decay_each",
    "test_complex": "test_complex_parameters_are_refused",
    "test_complex_2d": "test_complex_parameters_are_refused",
    "test_rosenbrock_sparse": "sparse gradients are refused when the optimizer is made (test_refusals.py)",
    "test_foreach_matches_forloop": FLAG,
    "test_foreach_large_tensor": FLAG,
    "test_peak_memory_foreach": FLAG,
    "test_fused_matches_forloop": FLAG,
    "test_fused_large_tensor": FLAG,
    "test_fused_error_on_params_on_meta": FLAG,
    "test_fused_does_not_step_if_foundinf": "test_step.py asks it of a GradScaler, which leaves such steps out",
    "test_grad_scaling_autocast_fused_optimizers": FLAG,
    "test_defaults_changed_to_foreach": FLAG,
    "test_cudagraphs_use_after_free": "a step on a GPU makes its own graph (tests/update/fused)",
    "test_differentiable": "a step is not part of autograd's graph: the flag is refused (test_refusals.py)",
    "test_set_default_dtype_works_with_foreach": "test_the_default_dtype_does_not_matter",
    "test_mixed_device_dtype": "test_dtypes_may_be_mixed",
    "test_step_is_noop_when_params_have_no_grad": "test_without_gradients_nothing_moves",
    "test_step_is_noop_for_zero_grads": "test_gradients_of_zeros_move_nothing",
    "test_optimizer_can_be_printed": "test_it_can_be_printed",
    "test_state_dict_deterministic": "test_a_state_dict_goes_on_alike",
    "test_can_load_older_state_dict": "test_earlier.py has checkpoints of normc's earlier versions",
    "test_can_load_from_to_named_state_dict": "test_a_nameless_state_dict_is_refused",
    "test_save_load_equality_with_weights_only": "test_it_is_saved_and_loaded_with_weights_only",
    "test_load_nontensor_step": "test_counts_of_steps_may_be_numbers",
    "test_state_dict_with_cuda_params": "needs a GPU; states go to their parameter's device (test_loading.py)",
    "test_deepcopy_copies_all_public_attrs": "test_copies_and_pickles_have_all_public_attributes",
    "test_step_post_hook": "test_hooks_of_steps",
    "test_step_pre_hook": "test_hooks_of_steps",
    "test_step_all_hooks": "test_hooks_of_steps",
    "test_state_dict_post_hook": "test_hooks_of_state_dicts",
    "test_state_dict_pre_hook": "test_hooks_of_state_dicts",
    "test_state_dict_pre_post_hook": "test_hooks_of_state_dicts",
    "test_load_state_dict_post_hook": "test_hooks_of_loading",
    "test_load_state_dict_pre_hook_and_prepend": "test_hooks_of_loading",
    "test_load_state_dict_pre_post_hook": "test_hooks_of_loading",
    "test_non_empty_state": "test_a_step_makes_state",
    "test_optim_infos_do_not_specify_global_cliquey_kwargs": "it checks torch's own table of inputs",
    "test_no_grad": "test_a_closure_is_called_once_and_its_loss_comes_back",
    "test_closure": "test_a_closure_is_called_once_and_its_loss_comes_back",
    "test_add_param_group": "test_groups_cannot_be_added",
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """scion-light says that its gradients outlive zero_grad(), and steps without gradients are told of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NormcWarning)
        yield


class Net(nn.Module):
    """torch's problem: (weight x + bias) squared, summed."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(10, 5, generator=generator, dtype=torch.float32).to(dtype))
        self.bias = nn.Parameter(torch.randn(10, generator=generator, dtype=torch.float32).to(dtype))
        self.register_buffer("x", torch.randn(5, generator=generator, dtype=torch.float32).to(dtype))

    def forward(self) -> torch.Tensor:
        assert isinstance(self.x, torch.Tensor)
        return (self.weight.mv(self.x) + self.bias).square().sum()


def plan(recipe: str) -> NormPlan:
    return plan_of([draft("weight", (10, 5), "hidden"), draft("bias", (10,), "bias")], recipe)


def made(recipe: str, **options: Any) -> tuple[Net, Optimizer]:
    model = Net()
    options = {"lr": 1e-3, "compile": False} | options
    return model, build(plan(recipe), model.named_parameters(), **options)


def closing(model: Net, opt: Optimizer) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss: torch.Tensor = model()
        loss.backward()
        return loss

    return closure


def weights(model: Net) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def run(model: Net, opt: Optimizer, steps: int = 3) -> torch.Tensor:
    """The weights after some steps."""
    for _ in range(steps):
        opt.step(closing(model, opt))
    return weights(model)


def test_each_check_of_torch_has_its_answer() -> None:
    for name, answer in CHECKS.items():
        assert name.startswith("test_")
        assert answer in globals() if answer.startswith("test_") and " " not in answer else len(answer) > 20, name


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_goes_down(recipe: str) -> None:
    model, opt = made(recipe, lr=1e-2)
    first = float(model())
    run(model, opt, 20)
    assert float(model()) < first


SCHEDULES: dict[str, list[Callable[[Optimizer], Any]]] = {
    "step": [lambda opt: lr_scheduler.StepLR(opt, step_size=10, gamma=0.9)],
    "step and plateau": [
        lambda opt: lr_scheduler.StepLR(opt, step_size=10, gamma=0.9),
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt),
    ],
    "linear": [lambda opt: lr_scheduler.LinearLR(opt, start_factor=0.4, total_iters=4)],
    "constant": [lambda opt: lr_scheduler.ConstantLR(opt, factor=0.4, total_iters=4)],
    "polynomial": [lambda opt: lr_scheduler.PolynomialLR(opt, power=0.9, total_iters=40)],
    "step, exponential and plateau": [
        lambda opt: lr_scheduler.StepLR(opt, step_size=10, gamma=0.99),
        lambda opt: lr_scheduler.ExponentialLR(opt, gamma=0.99),
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt),
    ],
    "one cycle": [lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=40)],
    "cosine": [lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=12)],
}


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("recipe", ["auto", "muon", "scion", "adamw"])
def test_it_goes_down_under_torchs_schedulers(recipe: str, schedule: str) -> None:
    model, opt = made(recipe, lr=1e-2)
    first = float(model())
    schedulers = [make(opt) for make in SCHEDULES[schedule]]
    rates = []
    for _ in range(20):
        loss = opt.step(closing(model, opt))
        for scheduler in schedulers:
            scheduler.step(*([loss] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        rates.append({group["lr"] for group in opt.param_groups})
    assert float(model()) < first
    assert all(len(own) == 1 for own in rates)
    assert len(set.union(*rates)) > 1


PARAMETER, OTHER = nn.Parameter(torch.ones(10, 5)), nn.Parameter(torch.ones(10))
NAMED = [("weight", PARAMETER), ("bias", OTHER)]
REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "a tensor instead of an iterable": (PARAMETER, {}),
    "a parameter twice": ([("weight", PARAMETER), ("bias", PARAMETER)], {}),
    "a name twice": ([("weight", PARAMETER), ("weight", OTHER)], {}),
    "groups that share a parameter": ([{"params": PARAMETER}, {"params": PARAMETER}], {}),
    "groups": ([{"params": [PARAMETER], "lr": 1e-2}, {"params": [("bias", OTHER)]}], {}),
    "one without a name": ([("weight", PARAMETER), OTHER], {}),
    "none with a name": ([PARAMETER, OTHER], {}),
    "more than a name and a tensor": ([(*pair, 1) for pair in NAMED], {}),
    "no tensor": ([("weight", PARAMETER), ("bias", 3.0)], {}),
    "nothing": ([], {}),
    "a name alone": (["weight", "bias"], {}),
    "an lr of two entries": (NAMED, {"lr": torch.tensor([1e-3, 1e-3])}),
    "a negative lr": (NAMED, {"lr": -1e-2}),
    "an lr that is no number": (NAMED, {"lr": "1e-2"}),
    "an lr that isn't finite": (NAMED, {"lr": float("nan")}),
    "a negative decay": (NAMED, {"weight_decay": -1.0}),
    "a share of one": (NAMED, {"momentum": 1.0}),
    "betas": (NAMED, {"betas": (0.9, 0.99)}),
}


@pytest.mark.parametrize("what", list(REFUSED))
@pytest.mark.parametrize("recipe", ["auto", "adamw"])
def test_inputs_that_torch_refuses_are_refused(recipe: str, what: str) -> None:
    params, options = REFUSED[what]
    with pytest.raises(NormcError, match="fix: "):
        build(plan(recipe), params, **({"lr": 1e-3, "compile": False} | options))


@pytest.mark.parametrize("lr", [torch.tensor(1e-2), torch.tensor([1e-2]), torch.tensor([[1e-2]])], ids=["0", "1", "2"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_tensor_lr_is_a_float_lr(recipe: str, lr: torch.Tensor) -> None:
    by_float, by_tensor = run(*made(recipe, lr=float(lr))), run(*made(recipe, lr=lr))
    torch.testing.assert_close(by_tensor, by_float, rtol=0, atol=1e-6)
    assert lr.flatten().tolist() == [pytest.approx(1e-2)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_groups_have_an_lr_each(recipe: str) -> None:
    for still in range(len(made(recipe)[1].param_groups)):
        model, opt = made(recipe)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        opt.param_groups[still]["lr"] = 0.0
        run(model, opt)
        for place, group in enumerate(opt.param_groups):
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                assert torch.equal(parameter, before[name]) is (place == still)


@pytest.mark.parametrize("recipe", DECAYING)
def test_groups_have_a_decay_each(recipe: str) -> None:
    """torch's: what decays ends smaller than what doesn't, whatever the gradient does."""
    ends = []
    for decay in (0.0, 30.0):
        model, opt = made(recipe)
        for group in opt.param_groups:
            group["weight_decay"] = decay if "weight" in group["param_names"] else 0.0
        run(model, opt, 6)
        ends.append((float(model.weight.norm()), float(model.bias.norm())))
    assert ends[1][0] < ends[0][0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_complex_parameters_are_refused(recipe: str) -> None:
    model = Net(torch.complex64)
    with pytest.raises(NormcError, match="complex"):
        build(plan(recipe), model.named_parameters(), lr=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_default_dtype_does_not_matter(recipe: str) -> None:
    expected = run(*made(recipe))
    torch.set_default_dtype(torch.float64)
    try:
        found = run(*made(recipe))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_dtypes_may_be_mixed(recipe: str) -> None:
    model = Net()
    model.bias = nn.Parameter(model.bias.detach().to(torch.bfloat16))
    opt = build(plan(recipe), model.named_parameters(), lr=1e-2, compile=False)
    first = float(model())
    run(model, opt, 10)
    assert float(model()) < first
    assert (model.weight.dtype, model.bias.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_gradients_nothing_moves(recipe: str) -> None:
    model, opt = made(recipe)
    before = weights(model)
    opt.step()
    assert torch.equal(weights(model), before)
    assert not opt.state


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_of_zeros_move_nothing(recipe: str) -> None:
    """Without decay. A recipe whose weights live in a ball moves them towards it, by decay in all but name."""
    model, opt = made(recipe, **({"weight_decay": 0.0} if recipe in DECAYING else {}))
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    opt.step()
    expected = before * (1 - 1e-3) if recipe in ("scion", "scion-light") else before
    torch.testing.assert_close(weights(model), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_can_be_printed(recipe: str) -> None:
    _, opt = made(recipe)
    text = repr(opt)
    assert "Optimizer" in text
    assert "lr: 0.001" in text
    assert text == str(opt)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_state_dict_goes_on_alike(recipe: str) -> None:
    model, opt = made(recipe)
    run(model, opt)
    other, fresh = made(recipe)
    other.load_state_dict(model.state_dict())
    state = copy.deepcopy(opt.state_dict())
    fresh.load_state_dict(copy.deepcopy(state))  # torch's optimizers too go on with the tensors that they are given
    assert torch.equal(run(model, opt), run(other, fresh))
    _, later = made(recipe)
    later.load_state_dict(state)
    assert later.state_dict()["param_groups"] == state["param_groups"]
    assert _same(later.state_dict()["state"], state["state"])


def _same(here: Any, there: Any) -> bool:
    """Whether two states hold the same, to the last bit."""
    if isinstance(here, dict):
        return here.keys() == there.keys() and all(_same(here[key], there[key]) for key in here)
    return torch.equal(here, there) if isinstance(here, torch.Tensor) else here == there


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_saved_and_loaded_with_weights_only(recipe: str) -> None:
    model, opt = made(recipe)
    run(model, opt)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    assert _same(read["state"], opt.state_dict()["state"])
    other, fresh = made(recipe)
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(read)
    assert torch.equal(run(model, opt), run(other, fresh))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_nameless_state_dict_is_refused(recipe: str) -> None:
    """torch matches by place; here a name is what says that a state is a parameter's own."""
    model, opt = made(recipe)
    run(model, opt)
    state = copy.deepcopy(opt.state_dict())
    for group in state["param_groups"]:
        del group["param_names"]
    _, fresh = made(recipe)
    with pytest.raises(NormcError, match="fix: "):
        fresh.load_state_dict(state)


@pytest.mark.parametrize("recipe", ["adamw", "muon", "adafactor", "soap"])
def test_counts_of_steps_may_be_numbers(recipe: str) -> None:
    """As in checkpoints of torch's older versions."""
    model, opt = made(recipe)
    run(model, opt)
    state = copy.deepcopy(opt.state_dict())
    counted = [own for own in state["state"].values() if "step" in own]
    for own in counted:
        own["step"] = float(own["step"])
    assert counted
    other, fresh = made(recipe)
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(state)
    assert torch.equal(run(model, opt), run(other, fresh))


@pytest.mark.parametrize("recipe", RECIPES)
def test_copies_and_pickles_have_all_public_attributes(recipe: str) -> None:
    model, opt = made(recipe)
    run(model, opt)

    def public(own: object) -> set[str]:
        return {name for name in vars(own) if not name.startswith("_")}

    for again in (copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))):
        assert public(again[1]) == public(opt)
        assert _same(again[1].state_dict()["state"], opt.state_dict()["state"])
    again = copy.deepcopy((model, opt))
    assert torch.equal(run(*again), run(model, opt))


@pytest.mark.parametrize("recipe", RECIPES)
def test_hooks_of_steps(recipe: str) -> None:
    """Global ones before an optimizer's own; all are taken off by their handles, and keep the step what it is."""
    plain = run(*made(recipe), steps=1)
    model, opt = made(recipe)
    called: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        def hook(given: Any, args: Any, kwargs: Any) -> None:
            assert given is opt
            called.append(name)

        return hook

    handles = [
        register_optimizer_step_pre_hook(noting("all before")),
        opt.register_step_pre_hook(noting("before")),
        opt.register_step_post_hook(noting("after")),
        register_optimizer_step_post_hook(noting("all after")),
    ]
    try:
        assert torch.equal(run(model, opt, 1), plain)
        assert called == ["all before", "before", "after", "all after"]
    finally:
        for handle in handles:
            handle.remove()
    run(model, opt, 1)
    assert len(called) == 4


@pytest.mark.parametrize("recipe", RECIPES)
def test_hooks_of_state_dicts(recipe: str) -> None:
    model, opt = made(recipe)
    run(model, opt)
    called: list[str] = []

    def after(given: Any, state: dict[str, Any]) -> dict[str, Any]:
        called.append("after")
        return {**state, "ran": True}

    first = opt.register_state_dict_pre_hook(lambda given: called.append("before"))
    second = opt.register_state_dict_post_hook(after)
    assert opt.state_dict()["ran"] is True
    assert called == ["before", "after"]
    first.remove()
    second.remove()
    assert "ran" not in opt.state_dict()
    assert called == ["before", "after"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_hooks_of_loading(recipe: str) -> None:
    model, opt = made(recipe)
    run(model, opt)
    state = opt.state_dict()
    called: list[str] = []

    def before(given: Any, read: dict[str, Any]) -> dict[str, Any]:
        called.append("before")
        groups = [{**group, "lr": 0.5} for group in read["param_groups"]]
        return {**read, "param_groups": groups}

    opt.register_load_state_dict_pre_hook(before)
    opt.register_load_state_dict_pre_hook(lambda given, read: called.append("first"), prepend=True)
    opt.register_load_state_dict_post_hook(lambda given: called.append("after"))
    opt.register_load_state_dict_post_hook(lambda given: called.append("sooner"), prepend=True)
    opt.load_state_dict(state)
    assert called == ["first", "before", "sooner", "after"]
    assert {group["lr"] for group in opt.param_groups} == {0.5}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_makes_state(recipe: str) -> None:
    """For each parameter, but for a recipe whose gradients are its state."""
    model, opt = made(recipe)
    run(model, opt, 1)
    states = opt.state_dict()["state"]
    assert len(states) == 2
    assert all(states.values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_closure_is_called_once_and_its_loss_comes_back(recipe: str) -> None:
    model, opt = made(recipe)
    called: list[torch.Tensor] = []

    def closure() -> torch.Tensor:
        called.append(closing(model, opt)())
        return called[-1]

    with torch.no_grad():
        loss = opt.step(closure)
        assert not torch.is_grad_enabled()
    assert len(called) == 1
    assert loss is called[0]
    assert loss.requires_grad


@pytest.mark.parametrize("recipe", RECIPES)
def test_groups_cannot_be_added(recipe: str) -> None:
    _, opt = made(recipe)
    with pytest.raises(NormcError, match="plan the whole model"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize("recipe", RECIPES)
def test_parameters_without_entries_are_stepped_beside_the_others(recipe: str) -> None:
    model = Net()
    none = nn.Parameter(torch.zeros(0, 5))
    model.register_parameter("none", none)
    rows = [draft("weight", (10, 5), "hidden"), draft("bias", (10,), "bias"), draft("none", (0, 5), "hidden")]
    opt = build(plan_of(rows, recipe), model.named_parameters(), lr=1e-2, compile=False)
    first = float(model())
    for _ in range(10):
        loss = model() + none.sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert float(model()) < first
    assert torch.isfinite(weights(model)).all()


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable", "differentiable", "maximize"])
def test_flags_of_torch_are_refused_with_what_to_do_instead(flag: str) -> None:
    with pytest.raises(NormcError, match="fix: "):
        made("auto", **{flag: True})
    assert torch.equal(run(*made("auto", **{flag: False})), run(*made("auto")))
