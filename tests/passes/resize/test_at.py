"""A plan at another size is the plan of the model that has it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc import NormcError
from normc.passes.resize.formula import L
from normc.plans.plan import NormPlan
from normc.plans.row import D_IN, D_OUT, Row
from tests.recipe.modula import nets
from tests.zoo.nano_gpt import NanoGPT


def tokens() -> Tensor:
    return torch.randint(0, 60, (2, 10), generator=torch.Generator().manual_seed(0))


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def gpt2(layers: int, width: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"n_layer": layers, "n_embd": width, "n_head": width // 8, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, vocab_size=96, bos_token_id=1, eos_token_id=2))


def llama(layers: int, width: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = {"num_attention_heads": width // 8, "num_key_value_heads": width // 16}
    sizes = {"hidden_size": width, "intermediate_size": 11 * width // 4, "num_hidden_layers": layers, "vocab_size": 96}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads))


class Stack(nn.Module):
    """Residual blocks with the norm before or behind, or none, and a multiplier of their branches."""

    def __init__(self, layers: int, width: int, norm: str = "", power: float = 0.0, hidden: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(192, width)
        self.ups = nn.ModuleList(nn.Linear(width, hidden * width) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(hidden * width, width, bias=False) for _ in range(layers))
        self.last = nn.Linear(width, 10)
        self.norm, self.by = norm, layers**power

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for up, down in zip(self.ups, self.downs, strict=True):
            before = F.rms_norm(x, x.shape[1:]) if self.norm == "pre" else x
            branch = down(F.gelu(up(before)))
            x = x + (branch * self.by if self.by != 1 else branch)
            x = F.layer_norm(x, x.shape[1:]) if self.norm == "post" else x
        out: Tensor = self.last(x)
        return out


class Alternating(nn.Module):
    """Wide and narrow layers in turn."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        sizes = [(4 if i % 2 else 2) * width for i in range(layers)]
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, n), nn.ReLU(), nn.Linear(n, width)) for n in sizes)
        self.first, self.last = nn.Linear(192, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for layer in self.layers:
            x = x + layer(x)
        out: Tensor = self.last(x)
        return out


def convolutions(layers: int, width: int) -> nn.Module:
    inner = [part for _ in range(layers) for part in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), *inner, nn.Flatten(), nn.Linear(36 * width, 10))


def depthwise(layers: int, width: int) -> nn.Module:
    def block() -> nn.Module:
        spread = nn.Conv2d(width, width, 3, padding=1, groups=width)
        return nn.Sequential(spread, nn.GroupNorm(2, width), nn.Conv2d(width, width, 1), nn.GELU())

    return nn.Sequential(nn.Conv2d(3, width, 1), *(block() for _ in range(layers)))


Build = Callable[[int, int], nn.Module]
MODELS: dict[str, tuple[Build, Callable[[], Any]]] = {
    "modula gpt": (lambda n, d: nets.GPT(65, 16, d // 8, d, 6, 5, n), tokens),
    "modula resmlp": (lambda n, d: nets.ResMLP(d, n, 2, 192, 10), images),
    "modula rescnn": (lambda n, d: nets.ResCNN(d, n, 2, 3, 10), images),
    "nanogpt": (lambda n, d: NanoGPT(layers=n, width=d, heads=d // 8), tokens),
    "gpt-2": (gpt2, lambda: {"input_ids": tokens()}),
    "llama": (llama, lambda: {"input_ids": tokens()}),
    "pre-norm": (lambda n, d: Stack(n, d, "pre"), images),
    "post-norm": (lambda n, d: Stack(n, d, "post"), images),
    "1/sqrt(L)": (lambda n, d: Stack(n, d, power=-0.5), images),
    "convolutions": (convolutions, images),
    "depthwise": (depthwise, images),
}


def close(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9))


def same(a: Row, b: Row) -> bool:
    facts = ("name", "aliases", "shape", "dtype", "role", "fan_in", "fan_out", "in_axes", "out_axes", "block_axes",
             "kernel_axes", "blocks", "norm", "rule", "uses", "fallback", "state_bytes")  # fmt: skip
    numbers = ("mass", "sensitivity", "magnitude", "target")
    return (
        all(getattr(a, fact) == getattr(b, fact) for fact in facts)
        and all(close(getattr(a, number), getattr(b, number)) for number in numbers)
        and all(close(x, y) for x, y in zip(a.scale.per_block, b.scale.per_block, strict=True))
    )


def agree(found: NormPlan, wanted: NormPlan) -> None:
    assert [row.name for row in found] == [row.name for row in wanted]
    assert [a.name for a, b in zip(found, wanted, strict=True) if not same(a, b)] == []


@functools.cache
def planned(name: str, layers: int, width: int) -> NormPlan:
    build, inputs = MODELS[name]
    return normc.plan(build(layers, width), inputs(), recipe="modula")


@pytest.mark.parametrize("size", [(5, 32), (2, 32), (3, 64), (3, 16), (4, 48)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_plan_at_another_size_is_that_of_the_model(name: str, size: tuple[int, int]) -> None:
    plan = planned(name, 3, 32)
    width, depth = plan.dimensions[0], plan.dimensions[-1]
    assert (width.size, depth.name) == (32, "n_layer")
    found = plan.at({width.name: size[1], "n_layer": depth.size + size[0] - 3})
    agree(found, planned(name, *size))


def test_sizes_of_a_plan_at_another_size_change_again() -> None:
    build, inputs = MODELS["modula gpt"]
    plan = normc.plan(build(2, 32), inputs())
    far = plan.at(d_model=64).at(n_layer=6).at(d_model=16, n_layer=4)
    agree(far, normc.plan(build(4, 16), inputs()))
    agree(far.at(n_layer=2, d_model=32), plan)


def test_named_dimensions() -> None:
    plan = normc.plan(llama(2, 32), {"input_ids": tokens()})
    found = {dimension.name: dimension.size for dimension in plan.dimensions}
    assert {"d_model": 32, "vocab": 96, "n_kv_head": 2, "n_group": 2, "d_ff": 88, "n_layer": 2}.items() <= found.items()
    own = next(dimension for dimension in plan.dimensions if dimension.name == "d_ff")
    assert own.follows and "model.layers.*.mlp.down_proj.weight[1]" in own.axes


def test_a_size_by_its_own_name_changes_alone() -> None:
    plan = normc.plan(llama(2, 32), {"input_ids": tokens()})
    found = plan.at(d_ff=100, d_model=64)
    assert found["model.layers.1.mlp.down_proj.weight"].shape == (64, 100)
    assert found["model.layers.1.self_attn.k_proj.weight"].shape == (32, 64)
    assert plan.at(vocab=50, d_output=50)["lm_head.weight"].shape == (50, 32)
    assert any("n_kv_head keep" in note for note in found.notes)


def test_overrides_masses_and_heads_hold_at_another_size() -> None:
    build, inputs = MODELS["nanogpt"]
    asked: dict[str, Any] = {"tare": {"*.up.*": 0.5}, "heads": True, "overrides": {"*.down.weight": "frobenius"}}
    plan = normc.plan(build(2, 32), inputs(), **asked)
    agree(plan.at(d_model=64, n_layer=3), normc.plan(build(3, 64), inputs(), **asked))


def test_alternating_layers_repeat_in_pairs() -> None:
    plan = normc.plan(Alternating(4, 16), images())
    agree(plan.at(n_layer=8), normc.plan(Alternating(8, 16), images()))
    agree(plan.at(n_layer=2, d_model=32), normc.plan(Alternating(2, 32), images()))
    with pytest.raises(NormcError, match="groups of 2") as caught:
        plan.at(n_layer=5)
    assert "2, 4, 6" in caught.value.fix


def test_residual_multipliers_are_read_and_said() -> None:
    plan = normc.plan(nets.GPT(65, 16, 4, 32, 6, 5, 3), tokens())
    notes = plan.at(n_layer=7).notes
    assert any("0.833333" in note and "1 - 1/(2 n_layer)" in note for note in notes)
    plan = normc.plan(Stack(2, 32, power=-0.5), images())
    assert any("1/√(n_layer)" in note for note in plan.at(n_layer=3).notes)


class Collecting(Stack):
    def forward(self, x: Tensor) -> Tensor:
        x, seen = self.first(x.flatten(1)), []
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(F.gelu(up(x)))
            seen.append(x)
        out: Tensor = self.last(torch.stack(seen).sum(0))
        return out


class Different(Stack):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for i, (up, down) in enumerate(zip(self.ups, self.downs, strict=True)):
            x = x + down((F.gelu, F.relu, F.tanh)[i % 3](up(x)))
        out: Tensor = self.last(x)
        return out


class Shuffled(nn.Module):
    """A view across the boundary of what changes and what doesn't."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, width), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x).view(-1, 12))
        return out


@pytest.mark.parametrize(
    ("model", "sizes", "problem", "fix"),
    [
        (Stack(1, 16), {"n_layer": 2}, "repeats no blocks", "plan the model of that depth"),
        (Collecting(3, 16), {"n_layer": 4}, "collects every block", "plan the model of that depth"),
        (Different(3, 16), {"n_layer": 4}, "part at", "plan the model of that depth"),
        (Stack(3, 16), {"n_layer": 0}, "n_layer is 0", "whole number"),
        (Stack(3, 16), {"d_modle": 32}, "no dimension 'd_modle'", "did you mean 'd_model'"),
        (Stack(3, 16), {"d_model": 16.5}, "d_model is 16.5", "whole number"),
    ],
)
def test_what_cannot_be_is_said(model: nn.Module, sizes: dict[str, Any], problem: str, fix: str) -> None:
    with pytest.raises(NormcError) as caught:
        normc.plan(model, images()).at(**sizes)
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_a_width_that_leaves_no_whole_heads_is_answered_with_the_nearest() -> None:
    plan = normc.plan(gpt2(2, 32), {"input_ids": tokens()})
    with pytest.raises(NormcError, match="d_model can't be 50: n_head") as caught:
        plan.at(d_model=50)
    assert "48 and 56" in caught.value.fix


def test_an_op_that_does_not_run_at_a_size_is_named() -> None:
    plan = normc.plan(Shuffled(), torch.randn(3, 8))
    with pytest.raises(NormcError, match=r"aten.view \(test_at.py:\d+\) can't be had at that size"):
        plan.at(d_hidden=20, d_hidden_2=12)


def test_a_saved_plan_holds_no_trace() -> None:
    plan = normc.plan(Stack(2, 16), images())
    with pytest.raises(NormcError, match="holds no trace"):
        NormPlan.from_json(plan.to_json()).at(n_layer=3)


def test_formulas_of_modulas_gpt_are_independent_of_depth() -> None:
    options: dict[str, Any] = {"gains": "modula"}
    plan = normc.plan(nets.GPT(65, 16, 4, 32, 8, 8, 4), tokens(), recipe="modula", options=options)
    fans = sympy.sqrt(D_OUT) / sympy.sqrt(D_IN)
    wanted = {"blocks.2.q": 5 * fans / 7, "blocks.2.o": 5 * fans / 21, "blocks.0.up": 5 * fans / 21, "head": fans / 7}
    for name, formula in wanted.items():
        assert sympy.simplify(plan.formula(f"{name}.weight") - formula) == 0
    assert plan.formula("tok.weight") == sympy.sqrt(D_OUT) / 7


@pytest.mark.parametrize("norm", ["pre", "post", ""])
@pytest.mark.parametrize("gains", ["modula", "average"])
def test_a_formula_holds_at_depths_that_it_was_not_made_from(norm: str, gains: str) -> None:
    options: dict[str, Any] = {"gains": gains}
    plan = normc.plan(Stack(3, 32, norm), images(), recipe="modula", options=options)
    deep = normc.plan(Stack(12, 32, norm), images(), recipe="modula", options=options)
    laws = 0
    for row in plan:
        law = plan.origin.law(plan, row.name) if plan.origin else None
        assert law is not None
        for other, length in ((row, 3), (deep[row.name], 12)):
            if "follow no simple law" not in law.note or length == 3:
                laws += length == 12
                out, of = other.block_fans[0]
                assert float(law.formula.subs({L: length, D_OUT: out, D_IN: of})) == pytest.approx(other.scale.value)
    assert laws >= 1


def test_plain_residuals_have_an_explicit_depth() -> None:
    plan = normc.plan(nets.MLP(4, "relu", 192), images(), recipe="modula", options={"gains": "modula"})
    assert plan.formula("layers.1.weight").has(L)
    pre = normc.plan(Stack(3, 32, "pre"), images(), recipe="modula")
    assert pre.formula("ups.1.weight").has(L)
