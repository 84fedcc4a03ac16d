"""Gradients that aren't finite, over every recipe, policy and way of running; eigenpairs that can't be had."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.compiler import build
from normc.errors import NormcError, NormcWarning
from normc.exporting import export
from normc.optimizer import Optimizer
from normc.recipe.by_name import recipes
from normc.update.runtime import faults, judging
from tests.handmade import Small, loss_of, plan_of, small_rows
from tests.optimizer.test_export import imported

pytestmark = pytest.mark.usefixtures("updates_once")

POISONS = (math.nan, math.inf, -math.inf)
NAME = "up.1.weight"
WHEN = ("at once", "a step later")
LOUD = pytest.mark.filterwarnings("ignore::normc.errors.NormcWarning")


def made(recipe: str, policy: str, **options: Any) -> tuple[Small, Optimizer]:
    torch.manual_seed(0)
    model = Small(width=4, layers=2)
    given: dict[str, Any] = {"lr": 0.01, "compile": False, "nonfinite": policy} | options
    return model, build(plan_of(small_rows(model), recipe), model.named_parameters(), **given)


def give(model: nn.Module, seed: int, poison: float | None = None, name: str = NAME) -> None:
    model.zero_grad()
    loss_of(model, seed).backward()
    if poison is not None:
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        gradient.view(-1)[-1] = poison


def kept(model: nn.Module, opt: torch.optim.Optimizer) -> list[Tensor]:
    states = [value for own in opt.state.values() for value in own.values()]
    return [tensor.detach().clone() for tensor in (*model.parameters(), *states)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.fixture(params=WHEN)
def later(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the host waits a step for what a device knows, as it does on a GPU: lists on the CPU, as if they were."""
    if request.param == "a step later":
        monkeypatch.setattr(judging, "at_once", lambda device: False)
        monkeypatch.setattr(faults, "at_once", lambda device: False)
    return bool(request.param == "a step later")


def whole(recipe: str, poison: float, when: str) -> Any:
    """Every recipe meets NaN at once in each run of the tests, three recipes all; the rest is slow."""
    quick = recipe in ("muon", "adamw", "soap") or (math.isnan(poison) and when == "at once")
    return pytest.param(recipe, poison, when, marks=() if quick else pytest.mark.slow)


@LOUD
@pytest.mark.parametrize(
    ("recipe", "poison", "later"),
    itertools.starmap(whole, itertools.product(recipes, POISONS, WHEN)),
    indirect=["later"],
)
@pytest.mark.parametrize("policy", faults.POLICIES)
def test_one_entry_that_is_not_finite(recipe: str, poison: float, policy: str, later: bool) -> None:
    if policy == "skip" and recipe == "scion-light":
        with pytest.raises(NormcError, match="can't skip a step"):
            made(recipe, policy)
        return
    model, opt = made(recipe, policy)
    for seed in (0, 1):
        give(model, seed)
        opt.step()
    before = kept(model, opt)
    give(model, 2, poison)
    if policy == "raise" and not later:
        with pytest.raises(NormcError, match=f"'{NAME}' is not finite; that step has moved nothing"):
            opt.step()
    else:
        opt.step()
    assert opt.nonfinite == ({} if policy == "ignore" else {NAME: 1})
    if policy in ("raise", "skip"):
        assert same(kept(model, opt), before)
    if policy == "raise" and later:
        give(model, 2)
        with pytest.raises(NormcError, match=f"'{NAME}' was not finite; that step has moved nothing"):
            opt.step()
        assert same(kept(model, opt), before)
    if policy == "zero":
        assert all(tensor.isfinite().all() for tensor in kept(model, opt))
    if policy == "ignore":
        entry = model.get_parameter(NAME).detach().clone().view(-1)[-1]
        for seed in (3, 4):
            give(model, seed)
            opt.step()
        now = model.get_parameter(NAME).detach().view(-1)[-1]
        assert not now.isfinite() or now != entry  # it doesn't stand still in silence
    else:
        give(model, 3)
        opt.step()
        assert not same(kept(model, opt), before)
        assert all(tensor.isfinite().all() for tensor in kept(model, opt))


@LOUD
@pytest.mark.parametrize("recipe", ["muon", "soap", "scion", "adamw", "hyperball"])
def test_a_step_that_is_skipped_might_not_have_been(recipe: str, later: bool) -> None:
    (model, opt), (plain, other) = made(recipe, "skip"), made(recipe, "ignore")
    for seed in range(6):
        give(model, seed, math.nan if seed in (0, 3) else None)
        opt.step()
        if seed not in (0, 3):
            give(plain, seed)
            other.step()
    assert opt.nonfinite == {NAME: 2}
    assert same(kept(model, opt)[: len(list(model.parameters()))], kept(plain, other)[: len(list(plain.parameters()))])
    for own, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert all(torch.equal(opt.state[own][key], value) for key, value in other.state[expected].items())


def test_a_policy_is_said_once_and_named() -> None:
    model, opt = made("adamw", "skip")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed in range(3):
            give(model, seed, math.nan)
            opt.step()
    assert [warning.category for warning in said] == [NormcWarning]
    assert f"'{NAME}' is not finite: the step is skipped" in str(said[0].message)
    assert said[0].filename == __file__
    assert opt.nonfinite == {NAME: 3}


def test_all_parameters_are_named() -> None:
    model, opt = made("adamw", "raise")
    give(model, 0, math.nan)
    model.head.weight.grad[0, 0] = math.inf  # type: ignore[index]
    with pytest.raises(NormcError, match="and 1 more is not finite"):
        opt.step()
    assert set(opt.nonfinite) == {NAME, "head.weight"}


def test_gradients_whose_squares_overflow_are_finite(later: bool) -> None:
    model, opt = made("scion", "raise")
    give(model, 0)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3e38)
    opt.step()
    assert not opt.nonfinite
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_policies_are_checked_kept_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NormcError, match="give one of raise, skip, zero, ignore"):
        made("adamw", "drop")
    model, opt = made("adamw", "skip")
    give(model, 0, math.nan)
    with pytest.warns(NormcWarning):
        opt.step()
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.nonfinite == {NAME: 1}
        for group in other.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, math.nan)
        before = copy.deepcopy(other.param_groups[0]["params"])
        other.step()
        assert all(map(torch.equal, before, other.param_groups[0]["params"]))
    module = imported(export(opt, tmp_path / "update.py"), monkeypatch)
    again = module.Optimizer(model.named_parameters(), lr=0.1, compile=False)
    give(model, 0, math.nan)
    with pytest.raises(RuntimeError, match="is not finite"):
        again.step()


def test_what_the_device_found_is_known_before_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "at_once", lambda device: False)
    model, opt = made("adamw", "raise")
    for seed, poison in ((0, None), (1, math.nan)):
        give(model, seed, poison)
        opt.step()
    saved = opt.state_dict()
    assert {float(own["step"]) for own in saved["state"].values()} == {1.0}
    with pytest.raises(NormcError, match="was not finite"):
        opt.step()


def eigh(fails: str, plain: Any) -> Any:
    """torch.linalg.eigh that fails as some libraries do: raises, or gives NaN without a word; in both widths or one."""

    def failing(a: Tensor) -> Any:
        if "float32" in fails and a.dtype != torch.float32:
            return plain(a)
        if "raises" in fails:
            raise RuntimeError("linalg.eigh: the algorithm failed to converge")
        return tuple(torch.full_like(found, math.nan) for found in plain(a))

    return failing


@LOUD
@pytest.mark.parametrize("fails", ["raises", "is nan", "raises in float32", "is nan in float32"])
@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("recipe", ["soap", "soap-muon", "kl-soap", "shampoo", "kl-shampoo"])
def test_eigenpairs_that_cannot_be_had(recipe: str, first: int, fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (model, opt), (plain, other) = made(recipe, "raise"), made(recipe, "raise")
    working = torch.linalg.eigh
    for seed in range(5):
        give(model, seed)
        give(plain, seed)
        other.step()
        with monkeypatch.context() as patches:
            if seed >= first:
                patches.setattr(torch.linalg, "eigh", eigh(fails, working))
            opt.step()
    assert all(tensor.isfinite().all() for tensor in kept(model, opt))
    close = all(torch.allclose(a, b, atol=5e-5) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    if "float32" in fails:
        assert close or recipe != "shampoo"  # where bases of one null space may be any
        assert not opt.undecomposed
    elif first == 0 or recipe == "shampoo":  # soap makes its bases exactly at the first step alone
        assert not close
        assert NAME in opt.undecomposed


def test_eigenpairs_that_cannot_be_had_are_counted_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, opt = made("shampoo", "raise")
    monkeypatch.setattr(torch.linalg, "eigh", eigh("raises", torch.linalg.eigh))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed in range(3):
            give(model, seed)
            opt.step()
    assert [warning.category for warning in said] == [NormcWarning]
    assert "no eigenpairs" in str(said[0].message)
    assert said[0].filename == __file__
    assert opt.undecomposed[NAME] >= 3


@pytest.mark.slow
@LOUD
@pytest.mark.parametrize("recipe", ["auto", "muon", "adamw", "lion", "soap"])
def test_ten_thousand_steps_of_which_a_hundredth_are_poisoned(recipe: str) -> None:
    """In bf16, under "skip", against the same steps with nothing wrong."""
    losses = []
    for share in (0.0, 0.01):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
        model = model.to(torch.bfloat16)
        opt = normc.compile(
            model, torch.zeros(2, 8, dtype=torch.bfloat16), lr=0.002, recipe=recipe, nonfinite="skip", compile=False,
            stochastic_rounding=True, backend="cpu:fp32",
        )  # fmt: skip
        generator = torch.Generator().manual_seed(1)
        goal = torch.randn(8, 4, generator=generator)
        seen = []
        for place in range(10_000):
            x = torch.randn(16, 8, generator=generator)
            loss = (model(x.to(torch.bfloat16)).float() - torch.tanh(x @ goal)).square().mean()
            opt.zero_grad()
            loss.backward()
            if torch.rand((), generator=generator) < share:
                gradient = next(p for i, p in enumerate(model.parameters()) if i == place % 6).grad
                assert gradient is not None
                gradient.view(-1)[place % gradient.numel()] = POISONS[place % 3]
            opt.step()
            seen.append(loss.detach())
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert (50 < sum(opt.nonfinite.values()) < 150) == (share > 0)
        losses.append(float(torch.stack(seen[-1000:]).mean()))
    assert abs(losses[1] - losses[0]) < 0.1 * losses[0] + 0.005, losses
