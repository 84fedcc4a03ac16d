"""What a checkpoint may differ in and what it may not; groups after it was loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

import normc
from normc.recipe.by_name import recipes
from tests.optimizer.loading import Net, X, by_name, made, train, trained, weights
from tests.optimizer.test_checkpoint import through_file

pytestmark = pytest.mark.usefixtures("updates_once")


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
