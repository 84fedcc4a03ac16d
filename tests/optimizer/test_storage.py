"""States in bf16 and stochastic rounding, on lists of tensors; tests/update/fused has the same for kernels."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.compiler import build, defer
from normc.errors import NormcError
from normc.exporting import export
from normc.optimizer import Optimizer
from normc.passes.rewrites import batch
from normc.recipe.by_name import recipes
from normc.update.program.module import load
from normc.update.runtime.rounding import SEED, dither, round_stochastically
from tests.handmade import Small, draft, plan_of, small_rows, train
from tests.optimizer.narrow import made, reloaded, state_bytes
from tests.optimizer.test_export import imported
from tests.optimizer.test_step import weights

BOTH: dict[str, Any] = {"state_dtype": torch.bfloat16, "stochastic_rounding": True}
FEW = {"muon": 0.15, "modular-dual": 0.1, "adamw": 2**-6}  # how far of the way steps may come apart
HELD = [name for name in recipes if name == "scion-light"]


def test_rounding_is_right_on_average_and_keeps_what_is_exact() -> None:
    ulp = 2.0**-7
    for share in (0.1, 0.5, 0.9):
        for sign in (1.0, -1.0):
            value = torch.full((2**18,), sign * (1.0 + share * ulp))
            rounded = round_stochastically(value, 3, 1, 0).double()
            assert rounded.abs().unique().tolist() == [1.0, 1.0 + ulp]
            assert abs(float(rounded.mean() - value[0].double())) < 5 * ulp * 2**-10  # five deviations of the mean
    exact = torch.tensor([0.0, -0.0, 1.5, -3.0, 2.0**-130, float("inf"), -float("inf")])
    for seed in range(50):
        assert torch.equal(round_stochastically(exact, seed, 0, 1).float(), exact)
    assert round_stochastically(torch.tensor([float("nan")]), 0, 0, 0).isnan().all()
    assert round_stochastically(torch.tensor(1.0, dtype=torch.float64), 0, 0, 0).shape == ()


def test_dither_is_uniform_and_without_order() -> None:
    entries = torch.arange(2**12)
    rows = [dither(seed, salt, place, entries) for seed in range(8) for salt in (0, 7) for place in range(4)]
    found = torch.stack(rows).double()
    assert int(found.min()) >= 0 and int(found.max()) < 2**16
    counts = torch.histc(found, 64)
    assert float(((counts - counts.mean()) ** 2 / counts.mean()).sum()) < 120  # of 63 degrees of freedom
    other = (found - found.mean()) / found.std()
    assert (other @ other.t() / len(entries) - torch.eye(len(rows))).abs().max() < 0.08  # five deviations
    for shift in (1, 2, 16, 256):
        assert abs(float((other[:, shift:] * other[:, :-shift]).mean())) < 0.01
    assert torch.equal(dither(2**32 + 5, 1, 0, entries + 2**32), dither(5, 1, 0, entries))


def test_large_tensors_are_rounded_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    value = torch.randn(7, 30, generator=torch.Generator().manual_seed(0))
    whole = round_stochastically(value, 4, 2, 1)
    monkeypatch.setattr("normc.update.runtime.rounding._ENTRIES", 64)
    assert torch.equal(round_stochastically(value, 4, 2, 1), whole)
    assert torch.equal(round_stochastically(value[2:], 4, 2, 1, start=60), whole[2:])
    assert torch.equal(round_stochastically(value.t().contiguous().t(), 4, 2, 1), whole)


def drift(steps: int, size: float, **options: Any) -> Tensor:
    """How far sgd has moved a bf16 weight of ones by a constant gradient, of lr 1."""
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    plan = plan_of([draft("w", (64, 64), "hidden")], "sgd")
    opt = build(plan, [("w", weight)], lr=1.0, momentum=0.0, weight_decay=0.0, compile=False, **options)
    for _ in range(steps):
        weight.grad = torch.full_like(weight, size)
        opt.step()
    return 1.0 - weight.detach().double()


def test_small_steps_of_a_narrow_weight_are_not_lost() -> None:
    size = 2.0**-14  # the last place below 1 is 2^-8
    assert float(drift(64, size).abs().max()) == 0.0
    moved = drift(64, size, stochastic_rounding=True)
    assert float(moved.mean()) == pytest.approx(64 * size, rel=0.1)
    assert float(drift(64, size, **BOTH).mean()) == pytest.approx(64 * size, rel=0.1)
    assert len(moved.unique()) > 1


def test_a_narrow_second_moment_follows_only_with_dither() -> None:
    """beta2 = 0.999 asks for a thousandth less a step; bf16's last place is at least 2^-8 of a value."""
    found = {}
    for stochastic in (False, True):
        weight = nn.Parameter(torch.ones(64, 64))
        plan = plan_of([draft("w", (64, 64), "hidden")], "adamw")
        options: dict[str, Any] = {"state_dtype": torch.bfloat16, "stochastic_rounding": stochastic}
        opt = build(plan, [("w", weight)], lr=1e-3, compile=False, **options)
        for step in range(100):
            weight.grad = torch.full_like(weight, 1.0 if step == 0 else 0.0)
            opt.step()
        found[stochastic] = float(opt.state[weight]["exp_avg_sq"].double().mean()) / 1e-3
    assert found[False] > 0.98
    assert found[True] == pytest.approx(0.999**99, rel=0.01)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("recipe", FEW)
def test_steps_with_narrow_states_follow_those_with_wide_ones(recipe: str, stochastic: bool) -> None:
    model, opt = made(recipe)
    start = weights(model).clone()
    narrow, other = made(recipe, state_dtype=torch.bfloat16, stochastic_rounding=stochastic)
    train(model, [opt], 5)
    train(narrow, [other], 5)
    apart, way = (weights(model) - weights(narrow)).abs().max(), (weights(model) - start).abs().max()
    assert 0 < float(apart) < FEW[recipe] * float(way)
    assert 2 * state_bytes(other) == state_bytes(opt) > 0


@pytest.mark.parametrize("recipe", [name for name in recipes if name not in HELD])
def test_every_recipe_steps_with_narrow_states(recipe: str) -> None:
    model, opt = made(recipe, torch.bfloat16, **BOTH)
    before = weights(model)
    train(model, [opt], 2)
    assert torch.isfinite(weights(model)).all()
    assert not torch.equal(weights(model), before)
    kinds = {name: dict(bucket.states) for bucket in opt.update.buckets for name in bucket.names}
    for name, parameter in model.named_parameters():
        for key, value in opt.state[parameter].items():
            assert value.dtype == (torch.bfloat16 if kinds[name][key] == "like" else torch.float32)


def test_the_reference_has_the_options_too() -> None:
    model, opt = made(backend="reference", **BOTH)
    other, fast = made(**BOTH)
    train(model, [opt], 3)
    train(other, [fast], 3)
    torch.testing.assert_close(weights(model), weights(other), rtol=0, atol=2e-4)
    assert {value.dtype for state in opt.state.values() for value in state.values() if value.dim()} == {torch.bfloat16}


@pytest.mark.parametrize("recipe", ["scion-light", *FEW])
def test_resuming_is_bit_equal_and_draws_no_random_numbers(recipe: str) -> None:
    options = {"stochastic_rounding": True} if recipe in HELD else BOTH
    model, opt = made(recipe, torch.bfloat16, **options)
    random = torch.get_rng_state()
    train(model, [opt], 2)
    other, again = reloaded(model, opt, recipe, **options)
    assert {group[SEED] for group in again.param_groups} == {2}
    for narrow, mine in zip(other.parameters(), model.parameters(), strict=True):
        for key, value in again.state[narrow].items():
            assert value.dtype == opt.state[mine][key].dtype
    twin, copied = pickle.loads(pickle.dumps((model, opt)))
    torch.set_rng_state(random)
    for one, own in ((model, opt), (other, again), (twin, copied)):
        train(one, [own], 3, 2)
        assert torch.equal(weights(one), weights(model))
        assert torch.equal(torch.get_rng_state(), random)


def test_gradients_that_hold_the_average_are_rounded_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces as at once: an output's sign needs no whole matrix."""
    found = []
    for size, stochastic in ((2**20, False), (2**20, True), (1000, True)):
        monkeypatch.setattr(batch, "AT_ONCE", size)
        weight = nn.Parameter(torch.zeros(64, 64, dtype=torch.bfloat16))
        plan = plan_of([draft("w", (64, 64), "output")], "scion-light")
        opt = build(plan, [("w", weight)], lr=0.0, compile=False, backend="cpu:fp32", stochastic_rounding=stochastic)
        assert opt.update.buckets[0].pieces == size
        weight.grad = torch.full_like(weight, 1.0 + 2**-7)
        opt.step()
        found.append((weight.grad.double(), opt.param_groups[0]["momentum"]))
    (nearest, keeps), (chance, _), (pieces, _) = found
    assert len(nearest.unique()) == 1
    assert len(chance.unique()) == 2
    assert torch.equal(chance, pieces)
    kept = float(chance.mean()) / (1.0 + 2**-7)
    assert min(abs(kept - share) for share in (keeps, 1.0 - keeps)) < 2**-12


def test_no_step_recompiles() -> None:
    load.cache_clear()
    counters = torch._dynamo.utils.counters
    counters.clear()
    model, opt = made("scion", compile=True, backend="cpu:fp32", **BOTH)
    train(model, [opt], 1)
    compiled = counters["stats"]["unique_graphs"]
    assert compiled > 0
    train(model, [opt], 4, 1)
    assert counters["stats"]["unique_graphs"] == compiled


def test_checkpoints_go_from_one_dtype_to_another() -> None:
    model, wide = made("adamw", torch.bfloat16)
    train(model, [wide], 2)
    _, narrow = made("adamw", torch.bfloat16, **BOTH)
    narrow.load_state_dict(wide.state_dict())
    assert 2 * state_bytes(narrow) == state_bytes(wide)
    assert {group[SEED] for group in narrow.param_groups} == {0}
    _, back = made("adamw", torch.bfloat16)
    back.load_state_dict(narrow.state_dict())
    assert state_bytes(back) == state_bytes(wide)
    assert all(SEED not in group for group in (*back.param_groups, *wide.param_groups))
    _, full = made("adamw", torch.float32, **BOTH)
    full.load_state_dict(wide.state_dict())
    assert state_bytes(full) == state_bytes(narrow)


def test_an_optimizer_that_gets_its_plan_later_keeps_the_options() -> None:
    model, opt = made("adamw", torch.bfloat16, **BOTH)
    train(model, [opt], 2)
    torch.manual_seed(0)
    other = Small().bfloat16()
    late = defer(recipes["adamw"], other.named_parameters(), lr=5e-3, backend="cpu:fp32", compile=False, **BOTH)
    other.load_state_dict(model.state_dict())
    late.load_state_dict(copy.deepcopy(opt.state_dict()))
    late.adopt(plan_of(small_rows(other), "adamw"))
    train(model, [opt], 2, 2)
    train(other, [late], 2, 2)
    assert torch.equal(weights(model), weights(other))
    assert state_bytes(late) == state_bytes(opt)


def three_dtypes(**options: Any) -> tuple[Small, Optimizer, Small, Optimizer]:
    """A model of three dtypes, among them a stack of two, and one in float32 that starts at the same weights."""
    torch.manual_seed(0)
    mixed = Small()
    for part, dtype in ((mixed.up, torch.bfloat16), (mixed.down[0], torch.float16), (mixed.head, torch.float16)):
        part.to(dtype)
    full = copy.deepcopy(mixed).float()
    plan = plan_of(small_rows(mixed), "muon")
    first, second = (
        build(plan, model.named_parameters(), lr=5e-3, compile=False, backend="cpu:fp32", **own)
        for model, own in ((mixed, options), (full, {}))
    )
    return mixed, first, full, second


@pytest.mark.parametrize("options", [{}, BOTH], ids=["plain", "both"])
def test_three_dtypes_in_one_model(options: dict[str, Any]) -> None:
    mixed, opt, full, wide = three_dtypes(**options)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for one, other in zip(mixed.parameters(), full.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator).to(one.dtype)
            other.grad = one.grad.float()
        opt.step()
        wide.step()
    for one, other in zip(mixed.parameters(), full.parameters(), strict=True):
        last = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 0.0}[one.dtype]
        torch.testing.assert_close(one.float(), other, rtol=3 * last, atol=3e-3 if options else 3 * last + 1e-7)
    kinds = {value.dtype for state in opt.state.values() for value in state.values() if value.dim()}
    assert kinds == {torch.bfloat16 if options else torch.float32}


def test_exported_files_keep_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, opt = made("muon", torch.bfloat16, **BOTH)
    copied = copy.deepcopy(model)
    module = imported(export(opt, tmp_path / "update.py"), monkeypatch)
    own = module.Optimizer(copied.named_parameters(), lr=5e-3, compile=False)
    train(model, [opt], 2)
    train(copied, [own], 2)
    assert torch.equal(weights(model), weights(copied))
    assert own.state_dict()["param_groups"][0][SEED] == 2
    for source, given in ((opt, {}), (opt.plan, BOTH)):
        module = imported(export(source, tmp_path / "other.py", "cuda:sm_90", **given), monkeypatch)
        assert module.UPDATE.state == torch.bfloat16 and module.UPDATE.stochastic
    with pytest.raises(NormcError, match="its own options"):
        export(opt, tmp_path / "third.py", state_dtype=torch.bfloat16)


def test_mistakes_are_explained() -> None:
    model = nn.Linear(4, 3)
    for dtype in (torch.float16, torch.float64, "bfloat16"):
        with pytest.raises(NormcError, match=r"state_dtype is .*\n.*torch.bfloat16, torch.int8, or None"):
            normc.compile(model, torch.zeros(2, 4), lr=1.0, state_dtype=dtype)  # type: ignore[arg-type]
    with pytest.raises(NormcError, match=r"'embed.weight' is its gradient(.|\n)*leave state_dtype out"):
        made("scion-light", state_dtype=torch.bfloat16)
    assert "stochastic" not in normc.compile(model, torch.zeros(2, 4), lr=1.0, state_dtype=torch.float32).source
