"""What a checkpoint may differ in, what it may not, and what of it is taken where it does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as read_folder
from torch.distributed.checkpoint.state_dict_saver import save as write_folder
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

import normc
from normc.recipe.by_name import recipes
from tests.optimizer.test_checkpoint import through_file

X = torch.linspace(-1, 1, 48).reshape(8, 6)
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class Net(nn.Module):
    def __init__(self, order: str = "abc") -> None:
        super().__init__()
        for name in order:
            setattr(self, name, nn.Linear({"a": 6}.get(name, 8), {"c": 3}.get(name, 8)))

    def forward(self, x: Tensor) -> Tensor:
        for name in "abc":
            x = self.get_submodule(name)(x if name == "a" else torch.tanh(x))
        return x


def made(recipe: Any = "muon", model: nn.Module | None = None, **options: Any) -> tuple[nn.Module, normc.Optimizer]:
    torch.manual_seed(0)
    model = Net() if model is None else model
    dtype = next(model.parameters()).dtype
    options = {"lr": 0.02, "compile": False} | options
    return model, normc.compile(model, X.to(dtype), recipe=recipe, **options)


def train(model: nn.Module, opt: torch.optim.Optimizer, first: int, steps: int) -> None:
    for seed in range(first, first + steps):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).to(next(model.parameters()).dtype)
        (model(x) - x[:, :3]).square().mean().backward()
        opt.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", normc.NormcWarning)
            opt.zero_grad()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for _, parameter in sorted(model.named_parameters())])


def by_name(opt: normc.Optimizer) -> dict[str, dict[str, Tensor]]:
    pairs = [pair for g in opt.param_groups for pair in zip(g["param_names"], g["params"], strict=True)]
    return {name: opt.state[parameter] for name, parameter in pairs}


def trained(recipe: Any = "muon", **options: Any) -> tuple[nn.Module, normc.Optimizer]:
    model, opt = made(recipe, **options)
    train(model, opt, 0, 2)
    return model, opt


def inner(wrap: Callable[[Any], Any]) -> nn.Module:
    model = Net()
    model.b = wrap(model.b)
    return model


ALIKE: dict[str, Callable[[], Any]] = {
    "another order": lambda: Net("cab"),
    "bfloat16": lambda: Net().bfloat16(),
    "float64": lambda: Net().double(),
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "data parallel": lambda: nn.DataParallel(Net()),
    "averaged": lambda: AveragedModel(Net()),
    "a part compiled": lambda: inner(lambda part: torch.compile(part, backend="eager")),
    "a part checkpointed": lambda: inner(checkpoint_wrapper),
    "compiled, data parallel": lambda: torch.compile(nn.DataParallel(Net()), backend="eager"),
}


@pytest.mark.parametrize("there", ["from", "to"])
@pytest.mark.parametrize("what", list(ALIKE))
def test_what_does_not_matter_loads(what: str, there: str) -> None:
    torch.manual_seed(0)
    plain, like = made(), made(model=ALIKE[what]())
    assert like[1].plan.hash == plain[1].plan.hash
    assert {row.name for row in like[1].plan.rows} == {row.name for row in plain[1].plan.rows}
    (model, old), (_, new) = (like, plain) if there == "from" else (plain, like)
    train(model, old, 0, 2)
    assert new.load_state_dict(through_file(old.state_dict())) == ()
    mine, loaded = by_name(old), by_name(new)
    assert mine.keys() == loaded.keys()
    for name, states in mine.items():
        for key, value in states.items():
            torch.testing.assert_close(loaded[name][key], value.to(loaded[name][key].dtype), rtol=0, atol=0)
    assert {value.dtype for states in loaded.values() for value in states.values() if value.dim()} <= {
        torch.float32, torch.float64,
    }  # fmt: skip


def test_a_module_that_is_called_module_keeps_its_name() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(self.module(x)))

    _, opt = trained(model=Own())
    assert opt.plan.rows[0].name == "module.weight"
    _, other = made(model=nn.DataParallel(Own()))
    other.load_state_dict(opt.state_dict())
    assert torch.equal(
        by_name(other)["module.weight"]["momentum_buffer"], by_name(opt)["module.weight"]["momentum_buffer"]
    )


def test_an_order_that_swaps_the_names_of_a_tied_weight_loads() -> None:
    class Tied(nn.Module):
        def __init__(self, order: str) -> None:
            super().__init__()
            for name in order:
                setattr(self, name, nn.Embedding(9, 6) if name == "e" else nn.Linear(6, 9, bias=False))
            self.get_submodule("h").weight = self.get_parameter("e.weight")

        def forward(self, x: Tensor) -> Tensor:
            hidden: Tensor = torch.tanh(self.get_submodule("e")(x))
            return self.get_submodule("h")(hidden)

    tokens, opts = torch.arange(9)[None], []
    for order in ("eh", "he"):
        model = Tied(order)
        opts.append(normc.compile(model, tokens, recipe="muon", lr=0.1, compile=False))
        model(tokens).square().mean().backward()
        opts[-1].step()
    assert [opt.plan.rows[0].name for opt in opts] == ["e.weight", "h.weight"]
    assert opts[0].plan.hash == opts[1].plan.hash
    opts[0].load_state_dict(opts[1].state_dict())
    opts[1].load_state_dict(opts[0].state_dict())


def test_a_tenth_digit_does_not_matter_and_a_tenth_does() -> None:
    _, opt = trained("scion")
    for factor, loads in ((1 + 1e-9, True), (1 + 1e-3, True), (1.1, False)):
        row = opt.plan["b.weight"]
        other = opt.plan.override("b.weight", scale=row.scale.value * factor)
        assert (other.hash == opt.plan.hash) or factor > 1 + 1e-6
        assert normc.NormPlan.from_json(other.to_json()) == other
        again = normc.compile(Net(), plan=other, lr=0.1, compile=False)
        if loads:
            again.load_state_dict(opt.state_dict())
        else:
            with pytest.raises(normc.NormcError, match=r"b\.weight: hidden, lmo, spectral, scale 3 -> .* scale 3\.3"):
                again.load_state_dict(opt.state_dict())


def test_another_length_and_another_attention_is_the_same_plan() -> None:
    transformers = pytest.importorskip("transformers")

    def planned(length: int, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> normc.Optimizer:
        config = transformers.LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, attn_implementation=attention,
        )  # fmt: skip
        ids = torch.zeros(2, length, dtype=torch.long)
        model = transformers.LlamaForCausalLM(config).to(dtype)
        return normc.compile(model, {"input_ids": ids, "labels": ids}, lr=0.1, compile=False)

    first = planned(12)
    for opt in (planned(20), planned(300), planned(12, "eager"), planned(12, dtype=torch.bfloat16)):
        opt.load_state_dict(first.state_dict())
        first.load_state_dict(opt.state_dict())


def test_an_option_that_differs_is_named() -> None:
    _, opt = trained("muon", options={"ns_steps": 3})
    for own, told in ((None, "3 -> its default"), ({"ns_steps": 4}, "3 -> 4")):
        _, other = made("muon", options=own)
        with pytest.raises(normc.NormcError, match=f"option ns_steps: {told}"):
            other.load_state_dict(opt.state_dict())
    default = recipes["muon"].known["ns_steps"]
    _, plain = trained("muon")
    made("muon", options={"ns_steps": default})[1].load_state_dict(plain.state_dict())


def test_blocks_that_differ_are_named() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).split(8, -1))
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    x = torch.randn(2, 5, 8)
    opts = [normc.compile(Attention(), x, recipe="muon", lr=0.1, compile=False, heads=heads) for heads in (False, True)]
    with pytest.raises(normc.NormcError, match=r"qkv\.weight: input.*blocks 0\(0:8\) .* -> .*blocks 0\(0:4\) "):
        opts[1].load_state_dict(opts[0].state_dict())


def spoilt(spoil: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    state = copy.deepcopy(trained()[1].state_dict())
    spoil(state)
    return state


SPOILT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a lost state": (lambda s: s["state"].pop(0), r"a\.weight: the state 'momentum_buffer' is gone"),
    "no states": (lambda s: s.update(state={}), "'momentum_buffer' is gone"),
    "other names": (
        lambda s: [s["state"][key].update(old=s["state"][key].pop("momentum_buffer")) for key in (0, 1)],
        "'momentum_buffer' is gone; it has no state 'old'",
    ),
    "one state too many": (lambda s: s["state"][0].update(extra=torch.ones(8, 6)), "it has no state 'extra'"),
    "another shape": (
        lambda s: s["state"][0].update(momentum_buffer=torch.ones(3, 3)),
        r"'momentum_buffer' has shape \(3, 3\), not \(8, 6\)",
    ),
    "a number": (lambda s: s["state"][0].update(momentum_buffer=1.0), "'momentum_buffer' is a float, not a tensor"),
    "whole numbers": (
        lambda s: s["state"][0].update(momentum_buffer=torch.ones(8, 6, dtype=torch.long)),
        "of torch.int64, not of floating",
    ),
    "no plan": (lambda s: [g.pop("plan") for g in s["param_groups"]], "holds no plan"),
    "no names": (lambda s: [g.pop("param_names") for g in s["param_groups"]], "no parameter names"),
    "too few names": (lambda s: s["param_groups"][0]["param_names"].pop(), "names 1 of 2 parameters"),
    "another parameter": (
        lambda s: s["param_groups"][0]["param_names"].__setitem__(0, "z.weight"),
        r"nothing of 'a\.weight'",
    ),
    "no groups": (lambda s: s.pop("param_groups"), "has no 'param_groups'"),
    "lr that is no number": (lambda s: s["param_groups"][0].update(lr="fast"), "lr is 'fast'"),
}


@pytest.mark.parametrize("what", list(SPOILT))
def test_what_cannot_be_used_is_refused_and_nothing_is_loaded(what: str) -> None:
    spoil, message = SPOILT[what]
    _, opt = trained(lr=0.7)
    before = copy.deepcopy((by_name(opt), opt.param_groups))
    with pytest.raises(normc.NormcError, match=message):
        opt.load_state_dict(spoilt(spoil))
    for name, states in by_name(opt).items():
        assert states.keys() == before[0][name].keys()
        assert all(torch.equal(value, before[0][name][key]) for key, value in states.items())
    assert [group["lr"] for group in opt.param_groups] == [0.7, 0.7]
    # Before the plan is known, it is refused then.
    model = Net()
    later = normc.compile(model, recipe="muon", lr=0.7, compile=False)
    with pytest.raises(normc.NormcError, match=message):
        later.load_state_dict(spoilt(spoil))
        model(X)


def test_values_that_a_checkpoint_lacks_stay() -> None:
    state = spoilt(lambda s: [(g.pop("lr"), g.pop("momentum")) for g in s["param_groups"]])
    model, opt = made(lr=0.3, momentum=0.5)
    opt.load_state_dict(state)
    assert [(group["lr"], group["momentum"]) for group in opt.param_groups] == [(0.3, 0.5)] * 2
    train(model, opt, 0, 1)


def test_other_optimizers_checkpoints_are_refused_and_taken_as_far_as_they_fit() -> None:
    model, opt = made("adamw")
    old = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    train(model, old, 0, 2)
    with pytest.raises(normc.NormcError, match="another optimizer wrote it"):
        opt.load_state_dict(old.state_dict())
    opt.load_state_dict(old.state_dict(), strict=False)
    assert [group["lr"] for group in opt.param_groups] == [1e-3]
    assert "betas" not in opt.param_groups[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(by_name(opt)[name]["exp_avg"], old.state[parameter]["exp_avg"])
    train(model, opt, 2, 1)


def test_not_strict_takes_what_fits_and_lists_the_rest() -> None:
    def spoil(state: dict[str, Any]) -> None:
        state["state"][0].update(momentum_buffer=torch.ones(3, 3))
        state["param_groups"][1]["param_names"][0] = "z.bias"

    model, opt = made()
    with pytest.warns(normc.NormcWarning, match="3 parts are left out") as caught:
        left = opt.load_state_dict(spoilt(spoil), strict=False)
    assert caught[0].filename == __file__
    assert sorted(line.split(":")[0] for line in left) == ["a.bias", "a.weight", "z.bias"]
    states = by_name(opt)
    assert [name for name, own in states.items() if not own] == ["a.weight", "a.bias"]
    assert torch.equal(states["b.weight"]["momentum_buffer"], by_name(trained()[1])["b.weight"]["momentum_buffer"])
    train(model, opt, 2, 1)


def test_hooks_run_before_and_behind() -> None:
    _, opt = trained()
    wrapped, seen = {"optimizer": opt.state_dict()}, list[Any]()
    _, other = made()
    other.register_load_state_dict_pre_hook(lambda _, state: state["optimizer"])
    other.register_load_state_dict_post_hook(lambda _: seen.append(by_name(other)["a.weight"]["momentum_buffer"].dtype))
    other.load_state_dict(wrapped)
    assert seen == [torch.float32]
    assert wrapped.keys() == {"optimizer"}


LR: list[Any] = ["muon", "adamw", {"*": "muon", "output": "adamw"}]


@pytest.mark.parametrize("recipe", LR, ids=str)
def test_a_tensor_lr_is_each_groups_own(recipe: Any) -> None:
    given = torch.tensor(0.08)
    model, opt = made(recipe, lr=given)
    plateau = ReduceLROnPlateau(opt, factor=0.5, patience=0)
    for _ in range(3):
        plateau.step(1.0)
    assert [float(group["lr"]) for group in opt.param_groups] == pytest.approx([0.02] * len(opt.param_groups))
    train(model, opt, 0, 1)
    shared = opt.state_dict()
    for group in shared["param_groups"]:
        group["lr"] = given
    opt.load_state_dict(shared)
    twin, copied = copy.deepcopy((model, opt))
    train(twin, copied, 0, 1)
    for own in (opt, copied):
        for group in own.param_groups:
            group["lr"] *= 0.5
        assert [float(group["lr"]) for group in own.param_groups] == pytest.approx([0.04] * len(own.param_groups))
    assert float(given) == pytest.approx(0.08)


@pytest.mark.parametrize("recipe", ["adamw", "muon", {"*": "muon", "output": "adamw"}], ids=str)
def test_no_group_is_empty(recipe: Any) -> None:
    model, opt = made(recipe)
    assert all(group["params"] for group in opt.param_groups)
    model = Net()
    later = normc.compile(model, recipe=recipe, lr=0.1, compile=False)
    model(X)
    assert all(group["params"] for group in later.param_groups)
    for mine, theirs in zip(later.param_groups, opt.param_groups, strict=True):
        assert set(mine["param_names"]) == set(theirs["param_names"])
    train(model, later, 0, 1)
    twin, other = copy.deepcopy((model, later))
    train(twin, other, 1, 1)
    train(model, later, 1, 1)
    assert torch.equal(weights(twin), weights(model))


def test_a_group_that_a_scheduler_counts_on_stays() -> None:
    model = Net()
    opt = normc.compile(model, recipe="adamw", lr=0.1, compile=False)
    schedule = CosineAnnealingLR(opt, 10)
    train(model, opt, 0, 2)
    schedule.step()
    assert len({group["lr"] for group in opt.param_groups}) == 1
    opt.load_state_dict(through_file(opt.state_dict()))
    schedule.step()


DISTRIBUTED = ["muon", "scion", "scion-light", "adamw", "adafactor", {"*": "muon", "output": "adamw"}]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("options", [None, FLAT, StateDictOptions(full_state_dict=True)], ids=["", "flat", "full"])
@pytest.mark.parametrize("recipe", DISTRIBUTED, ids=str)
def test_distributed_checkpoints(recipe: Any, options: StateDictOptions | None, disk: bool, tmp_path: Path) -> None:
    model, opt = made(recipe)
    train(model, opt, 0, 3)
    at = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(get_optimizer_state_dict(model, opt, options=options))
    train(model, opt, 3, 2)
    again, other = made(recipe)
    again.load_state_dict(at)
    if disk:
        write_folder({"optimizer": state}, checkpoint_id=tmp_path)
        held = {"optimizer": get_optimizer_state_dict(again, other, options=options)}
        read_folder(held, checkpoint_id=tmp_path)
        state = held["optimizer"]
    set_optimizer_state_dict(again, other, state, options=options)
    train(again, other, 3, 2)
    assert torch.equal(weights(again), weights(model))
    CosineAnnealingLR(other, 10).step()


def test_set_state_dict_leaves_whole_groups() -> None:
    model, opt = trained("adamw")
    held = copy.deepcopy(get_state_dict(model, opt))
    again, other = made("adamw")
    schedule = CosineAnnealingLR(other, 10)
    set_state_dict(again, other, model_state_dict=held[0], optim_state_dict=held[1])
    assert all("lr" in group and "plan" in group for group in other.param_groups)
    train(again, other, 0, 1)
    schedule.step()


def test_another_plans_distributed_checkpoint_is_refused() -> None:
    model, opt = trained("scion")
    again, other = made("scion", options={"radius_output": 3.0})
    with pytest.raises(normc.NormcError, match="another plan"):
        set_optimizer_state_dict(again, other, copy.deepcopy(get_optimizer_state_dict(model, opt)))
    with pytest.raises(normc.NormcError, match="flattened by torch"):
        other.load_state_dict(dict(get_optimizer_state_dict(model, opt, options=FLAT)))
