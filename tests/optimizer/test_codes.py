"""States in int8: codes in blocks of 256 with a scale each, on lists of tensors; tests/update/fused has kernels."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

import normc
from normc.compiler import build, defer
from normc.errors import NormcError
from normc.exporting import export
from normc.optimizer import Optimizer
from normc.recipe.by_name import recipes
from normc.update.runtime import lists
from normc.update.runtime.codes import CODES, SCALES, decode, encoded, scale_of
from tests.handmade import draft, plan_of, small_rows, train
from tests.optimizer.narrow import made, reloaded, state_bytes
from tests.optimizer.test_export import imported
from tests.optimizer.test_step import weights
from tests.reading import BEFORE, read, reader

INT8: dict[str, Any] = {"state_dtype": torch.int8}
# How far of the way steps come apart. What divides by small singular values, or by small eigenvalues, makes noise of
# rounding where gradients have few directions.
FEW = {"muon": 0.3, "modular-dual": 0.3, "adamw": 0.05, "soap": 0.3, "lion": 0.3}
WITHOUT = ("scion-light", "adafactor", "shampoo")  # no average of gradients or steps in a buffer


def plain(codes: Tensor, scales: Tensor) -> Tensor:
    """`decode` entry by entry: the definition, in numpy's float32."""
    one = np.float32(1 / 127)
    found = [
        np.float32(code) * one * scales.numpy()[place // 256] for place, code in enumerate(codes.flatten().tolist())
    ]
    return torch.tensor(found, dtype=torch.float32).view(codes.shape)


@pytest.mark.parametrize("shape", [(1,), (255,), (256,), (3, 257), (2, 5, 64), ()])
def test_codes_stand_for_what_a_plain_transcription_says(shape: tuple[int, ...]) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3.0
    codes, scales = encoded(value)
    assert codes.dtype == torch.int8 and codes.shape == value.shape
    assert scales.dtype == torch.float32 and scales.shape == (-(-value.numel() // 256),)
    assert torch.equal(decode(codes, scales), plain(codes, scales))
    blocks = [block.abs().max() for block in value.flatten().split(256)]
    assert torch.equal(scales, torch.stack(blocks))
    nearest = [torch.round(block * (127 / block.abs().max())) for block in value.double().flatten().split(256)]
    assert torch.equal(codes.flatten().double(), torch.cat(nearest))


def test_no_entry_moves_far_and_none_grows_to_more_than_twice_itself() -> None:
    """The error of Gaussian entries is 0.7 % of their root mean square."""
    value = torch.randn(2**16, generator=torch.Generator().manual_seed(0))
    codes, scales = encoded(value)
    off = decode(codes, scales) - value
    assert float((off.view(-1, 256).abs() / scales[:, None]).max()) <= (1 + 1e-5) / 254
    assert float(off.norm() / value.norm()) == pytest.approx(0.007, abs=3e-4)
    assert bool((decode(codes, scales).abs() <= 2 * value.abs() * (1 + 1e-5)).all())


@pytest.mark.parametrize("size", [1.0, 1e-38, 1e-43, 1e37, 0.0])
def test_to_decode_and_encode_again_changes_no_bit(size: float) -> None:
    value = torch.randn(3000, generator=torch.Generator().manual_seed(1)) * size
    codes, scales = encoded(value)
    again = encoded(decode(codes, scales))
    assert torch.equal(again[1], scales)
    assert torch.equal(again[0], codes) or size == 1e-43  # of which one step is less than float32 has
    assert torch.equal(encoded(-value)[0], -codes)
    assert decode(codes, scales).isfinite().all()


def test_what_is_not_finite_stays_within_its_block() -> None:
    value = torch.ones(600)
    value[3], value[300] = float("nan"), float("inf")
    found = decode(*encoded(value))
    assert not found[3].isfinite() and not found[300].isfinite()
    assert torch.equal(found[512:], torch.ones(88))


@pytest.mark.parametrize("recipe", FEW)
def test_steps_with_codes_follow_those_without(recipe: str) -> None:
    model, opt = made(recipe)
    start = weights(model).clone()
    narrow, other = made(recipe, **INT8)
    train(model, [opt], 5)
    train(narrow, [other], 5)
    apart, way = (weights(model) - weights(narrow)).norm(), (weights(model) - start).norm()
    assert 0 < float(apart) < FEW[recipe] * float(way)


@pytest.mark.parametrize("recipe", [name for name in recipes if name not in WITHOUT])
def test_every_recipe_keeps_its_averages_as_codes_and_counts_their_bytes(recipe: str) -> None:
    model, opt = made(recipe, torch.bfloat16, **INT8)
    before = weights(model)
    train(model, [opt], 2)
    assert torch.isfinite(weights(model)).all()
    assert not torch.equal(weights(model), before)
    kinds = {name: dict(bucket.states) for bucket in opt.update.buckets for name in bucket.names}
    for name, parameter in model.named_parameters():
        for key, value in opt.state[parameter].items():
            assert value.dtype == (torch.int8 if kinds[name][key] == CODES else torch.float32)
            assert key not in ("momentum_buffer", "exp_avg") or value.dtype == torch.int8
            assert kinds[name][key] != SCALES or value.shape == (-(-parameter.numel() // 256),)
    held = sum(value.numel() * value.itemsize for state in opt.state.values() for value in state.values())
    assert held == opt.plan.state_bytes
    _, wide = made(recipe, torch.bfloat16)
    assert wide.plan.state_bytes > opt.plan.state_bytes
    assert wide.plan.hash == opt.plan.hash


def test_bytes_of_a_plan_are_those_of_the_optimizer_that_has_it() -> None:
    _, narrow = made(**INT8)
    _, half = made(state_dtype=torch.bfloat16)
    model, wide = made()
    assert build(narrow.plan, model.named_parameters(), lr=1.0, compile=False).plan == wide.plan
    assert half.plan.state_bytes < narrow.plan.state_bytes < wide.plan.state_bytes  # codes spare the squares
    assert f"{narrow.plan.state_bytes / 1e3:.1f} kB" in str(narrow.plan)


@pytest.mark.parametrize("recipe", WITHOUT)
def test_a_recipe_without_averages_says_so(recipe: str) -> None:
    with pytest.raises(
        NormcError, match=rf"{recipe} keeps no average(.|\n)*fix|is its gradient(.|\n)*leave state_dtype"
    ):
        made(recipe, **INT8)


def test_the_reference_keeps_codes_too() -> None:
    model, opt = made(backend="reference", **INT8)
    other, fast = made(**INT8)
    train(model, [opt], 3)
    train(other, [fast], 3)
    torch.testing.assert_close(weights(model), weights(other), rtol=0, atol=1e-5)
    apart = [
        (opt.state[one]["exp_avg"].int() - fast.state[two]["exp_avg"].int()).abs()
        for one, two in zip(model.parameters(), other.parameters(), strict=True)
    ]
    assert int(torch.cat([part.flatten() for part in apart]).max()) <= 1


def test_compiled_steps_keep_the_same_codes() -> None:
    model, opt = made("scion", **INT8)
    other, compiled = made("scion", compile=True, **INT8)
    train(model, [opt], 3)
    train(other, [compiled], 3)
    torch.testing.assert_close(weights(model), weights(other), rtol=0, atol=1e-4)


def test_steps_repeat_to_the_bit_and_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for part in (2**24, 100):
        monkeypatch.setattr(lists, "_PART", part)
        for recipe in ("adamw", "muon"):
            model, opt = made(recipe, **INT8)
            random = torch.get_rng_state()
            train(model, [opt], 3)
            assert torch.equal(torch.get_rng_state(), random)
            found.append(weights(model))
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


@pytest.mark.parametrize("recipe", FEW)
def test_resuming_is_bit_equal(recipe: str) -> None:
    model, opt = made(recipe, torch.bfloat16, **INT8)
    train(model, [opt], 2)
    other, again = reloaded(model, opt, recipe, **INT8)
    twin, copied = pickle.loads(pickle.dumps((model, opt)))
    same = copy.deepcopy(model)
    late = defer(recipes[recipe], same.named_parameters(), lr=5e-3, backend="cpu:fp32", compile=False, **INT8)
    late.load_state_dict(copy.deepcopy(opt.state_dict()))
    late.adopt(opt.plan)
    for one, own in ((model, opt), (other, again), (twin, copied), (same, late)):
        train(one, [own], 3, 2)
        assert torch.equal(weights(one), weights(model))


@pytest.mark.parametrize("late", [False, True])
def test_checkpoints_go_from_numbers_to_codes_and_back(late: bool) -> None:
    """By what the codes stand for: from codes to numbers and back again no bit is lost."""

    def given(checkpoint: dict[str, Any], **options: Any) -> Optimizer:
        model, opt = made("adamw", torch.bfloat16, **options)
        if late:
            opt = defer(
                recipes["adamw"], model.named_parameters(), lr=1.0, compile=False, backend="cpu:fp32", **options
            )
        opt.load_state_dict(copy.deepcopy(checkpoint))
        if late:
            opt.adopt(plan_of(small_rows(model), "adamw"))
        return opt

    model, wide = made("adamw", torch.bfloat16)
    train(model, [wide], 2)
    narrow = given(wide.state_dict(), **INT8)
    back = given(narrow.state_dict())
    half = given(narrow.state_dict(), state_dtype=torch.bfloat16)
    again = given(back.state_dict(), **INT8)
    for first, second, third, fourth, fifth in zip(
        *(list(opt.state.values()) for opt in (wide, narrow, back, again, half)), strict=True
    ):
        codes, scales = encoded(first["exp_avg"])
        assert torch.equal(second["exp_avg"], codes) and torch.equal(second[scale_of("exp_avg")], scales)
        assert torch.equal(third["exp_avg"], decode(codes, scales))
        assert set(third) == set(first) == set(fifth)
        assert torch.equal(fourth["exp_avg"], codes) and torch.equal(fourth[scale_of("exp_avg")], scales)
        assert fifth["exp_avg"].dtype == torch.bfloat16
        assert torch.equal(second["exp_avg_sq"], first["exp_avg_sq"])
    assert state_bytes(back) == state_bytes(wide) > 1.5 * state_bytes(narrow)


@pytest.mark.parametrize("flat", [False, True])
def test_checkpoints_of_torch_distributed_hold_codes(flat: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, opt = made(**INT8)
    train(model, [opt], 2)
    given = copy.deepcopy(get_state_dict(model, opt, options=options))
    other, again = made(**INT8)
    set_state_dict(other, again, model_state_dict=given[0], optim_state_dict=given[1], options=options)
    for one, own in ((model, opt), (other, again)):
        train(one, [own], 2, 2)
        assert torch.equal(weights(one), weights(model))
    wide, numbers = made()
    if flat:
        with pytest.raises(NormcError, match="not of floating-point"):
            set_state_dict(wide, numbers, model_state_dict=given[0], optim_state_dict=given[1], options=options)
        return
    set_state_dict(wide, numbers, model_state_dict=given[0], optim_state_dict=copy.deepcopy(given[1]), options=options)
    assert numbers.state[wide.embed.weight]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("broken", ["gone", "shape", "dtype", "code"])
def test_a_damaged_checkpoint_is_refused(broken: str) -> None:
    model, opt = made(**INT8)
    train(model, [opt], 1)
    state = copy.deepcopy(opt.state_dict())
    first = state["state"][0]
    if broken == "gone":
        del first["exp_avg_scale"]
    else:
        key = "exp_avg" if broken == "code" else "exp_avg_scale"
        first[key] = {"shape": torch.ones(7), "dtype": first[key].int(), "code": first[key].int()}[broken]
    with pytest.raises(NormcError, match=r"doesn't fit(.|\n)*embed.weight.*exp_avg"):
        made(**INT8)[1].load_state_dict(state)
    with pytest.raises(NormcError, match=r"doesn't fit(.|\n)*embed.weight.*exp_avg"):
        made()[1].load_state_dict(state)


def test_a_step_that_is_left_out_changes_no_code() -> None:
    model, opt = made(nonfinite="skip", **INT8)
    train(model, [opt], 2)
    before = copy.deepcopy(opt.state_dict()["state"])
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    with pytest.warns(UserWarning, match="finite"):
        opt.step()
    for own, now in zip(before.values(), opt.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(own[key], now[key]) for key in own)


@pytest.mark.parametrize("recipe", ["muon", "adamw"])
def test_exported_files_step_as_the_optimizer_does(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, opt = made(recipe, **INT8)
    copied = copy.deepcopy(model)
    module = imported(export(opt, tmp_path / "update.py"), monkeypatch)
    own = module.Optimizer(copied.named_parameters(), lr=5e-3, compile=False)
    train(model, [opt], 3)
    train(copied, [own], 3)
    assert torch.equal(weights(model), weights(copied))
    opt.load_state_dict(own.state_dict())
    module = imported(export(opt.plan, tmp_path / "other.py", "cuda:sm_90", **INT8), monkeypatch)
    assert any(kind == CODES for bucket in module.UPDATE.buckets for _, kind in bucket.states)
    assert "read_codes" in (tmp_path / "other.py").read_text()


def test_a_sharded_parameter_is_refused_before_anything_moves() -> None:
    class Sharded(nn.Parameter):
        def to_local(self) -> Tensor:
            return self.data

    model, opt = made(**INT8)
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.norm[2].weight.__class__ = Sharded
    with pytest.raises(NormcError, match=r"spread over processes(.|\n)*bfloat16 works"):
        opt.step()
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(
    ("recipe", "lr"),
    [
        ("muon", 1e-2),
        *(
            pytest.param(*given, marks=pytest.mark.slow)
            for given in (("adamw", 1e-2), ("auto", 0.1), ("lion", 1e-3), ("soap", 1e-2), ("scion", 0.02))
        ),
    ],
)
def test_200_steps_end_within_noise_of_wide_states(recipe: str, lr: float) -> None:
    """A small model of text: the mean loss differs by less than two deviations from one order of samples to another."""

    def loss(order: int, **options: Any) -> float:
        model, text = reader()
        example = torch.zeros(2, BEFORE, dtype=torch.long)
        opt = normc.compile(model, example, recipe=recipe, lr=lr, compile=False, backend="cpu:fp32", **options)
        return read(model, opt, text, 200, order)

    wide = torch.tensor([loss(order) for order in range(3)])
    narrow = torch.tensor([loss(order, **INT8) for order in range(3)])
    assert float(wide.max()) < 2.0  # of 4.9 at the start
    assert abs(float(narrow.mean() - wide.mean())) < 2 * max(float(wide.std()), 0.005), (wide, narrow)


def test_a_single_number_and_nothing_at_all_have_codes() -> None:
    parameters = {"a": nn.Parameter(torch.tensor(2.0)), "b": nn.Parameter(torch.ones(300, 2))}
    plan = plan_of([draft("a", (), "gain"), draft("b", (300, 2), "hidden")], "adamw")
    opt = build(plan, parameters.items(), lr=0.1, compile=False, **INT8)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    opt.step()
    assert opt.state[parameters["a"]]["exp_avg"].item() == 127
    assert opt.state[parameters["b"]]["exp_avg_scale"].shape == (3,)
