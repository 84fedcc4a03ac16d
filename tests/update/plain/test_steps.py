"""Plain files against the plain float64 reference: every recipe's steps are the same to rounding."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.compiler import plan as plan_model
from normc.exporting import exported_plain
from normc.plans.plan import NormPlan
from normc.plans.row import Block
from normc.recipe.by_name import recipes
from tests.backends.test_agreement import LARGER, LEAST, STEADY
from tests.handmade import Small, draft, plan_of, small_rows, train
from tests.quick import others_slow
from tests.ties import ROTATING, firm_bases

QUICK = ("auto", "adafactor", "hyperball", "muon", "muown", "scion-light", "soap-muon")


def module_of(plan: NormPlan) -> dict[str, Any]:
    """What a plain file of the plan defines."""
    namespace: dict[str, Any] = {"__name__": "plain"}
    exec(compile(exported_plain(plan), "plain.py", "exec"), namespace)
    return namespace


def plain(plan: NormPlan, named: Iterable[tuple[str, Tensor]], **values: Any) -> torch.optim.Optimizer:
    """The optimizer of a plan's plain file."""
    opt: torch.optim.Optimizer = module_of(plan)["Optimizer"](named, **values)
    return opt


def apart(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of two models' weights."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((mine - its).detach().abs().max()) for mine, its in pairs)


@pytest.mark.parametrize("recipe", others_slow(recipes, QUICK))
def test_twenty_steps_equal_the_reference(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 1e-4 of weights that move by more than 1e-2 (or `LEAST`), as backends are held to."""
    if recipe in ROTATING:
        firm_bases(monkeypatch)
    torch.manual_seed(0)
    ours = Small()
    other, start = copy.deepcopy(ours), copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe, **STEADY.get(recipe, {}))
    lr = LARGER.get(recipe, 5e-3)
    train(ours, [plain(plan, ours.named_parameters(), lr=lr)], 20)
    train(other, [build(plan, other.named_parameters(), lr=lr, backend="reference")], 20)
    assert apart(ours, other) < 1e-4
    for mine, first in zip(ours.parameters(), start.parameters(), strict=True):
        assert float((mine - first).detach().abs().max()) > LEAST.get(recipe, 1e-2)


class Tied(nn.Module):
    """Fused q, k and v of two heads, a convolution, and a table that is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.attn = nn.ModuleList(nn.Linear(8, 24, bias=False) for _ in range(2))  # a key's has a gradient of noise
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.spare = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.conv(x.mT).mT
        for attn in self.attn:
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in attn(x).chunk(3, -1))
            x = x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x)


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("auto", {}),
        ("modular-dual", {"heads": True}),
        ({"*": "auto", "attn.*": "muon", "*.bias": "adam"}, {}),
    ],
)
def test_traced_models_in_float64_step_alike_tied_with_heads_and_of_several_recipes(recipe: Any, options: Any) -> None:
    torch.manual_seed(0)
    ours = Tied().double()
    other, start = copy.deepcopy(ours), copy.deepcopy(ours)
    plan = plan_model(ours, (torch.zeros(2, 9, dtype=torch.long),), recipe=recipe, **options)
    rate: Any = {"auto": 0.02, "muon": 0.01, "adam": 0.003} if isinstance(recipe, dict) else 0.02
    slow = build(plan, other.named_parameters(), lr=rate, backend="reference")
    fast = plain(plan, ours.named_parameters(), lr=0.02)
    if isinstance(recipe, dict):
        found = {name: group["lr"] for group in slow.param_groups for name in group["param_names"]}
        for group in fast.param_groups:
            group["lr"] = found[group["param_names"][0]]
    schedules = [torch.optim.lr_scheduler.LinearLR(opt, 0.5, 1.0, 10) for opt in (fast, slow)]
    for seed in range(20):
        train(ours, [fast], 1, seed)
        train(other, [slow], 1, seed)
        for schedule in schedules:
            schedule.step()
    assert apart(ours, other) < 1e-9
    assert apart(ours, start) > 1e-2
    assert apart(ours.spare, start.spare) == 0.0


def blocked() -> list[Any]:
    """Rows whose blocks differ in size, one by one, and a scalar."""
    blocks = (Block("q", 0, ((0, 6),)), Block("k", 0, ((6, 8), (10, 12))), Block("v", 0, ((8, 10),)))
    return [
        *(draft(f"h.{i}.qkv", (12, 5), "hidden", blocks=blocks) for i in range(3)),
        draft("experts", (3, 4, 5), "hidden", block_axes=(0,), in_axes=(1,), out_axes=(2,)),
        draft("gate", (), "scalar"),
        draft("rows.3.w", (7,), "gain"),
    ]


@pytest.mark.parametrize("recipe", ["scion", "normuon", "modula"])
def test_blocks_of_unequal_sizes_and_gradients_that_are_none(recipe: str) -> None:
    torch.manual_seed(0)
    plan = plan_of(blocked(), recipe)
    fast = {row.name: nn.Parameter(torch.randn(row.shape)) for row in plan.rows}
    slow = {name: nn.Parameter(w.detach().clone()) for name, w in fast.items()}
    ours = plain(plan, fast.items(), lr=0.05)
    other = build(plan, slow.items(), lr=0.05, backend="reference")
    for step in range(20):
        for i, name in enumerate(fast):
            absent = (i + step) % 3 == 0
            slow[name].grad = None if absent else torch.randn(slow[name].shape)
            fast[name].grad = None if absent else slow[name].grad.clone()  # type: ignore[union-attr]
        ours.step()
        other.step()
    for name, w in fast.items():
        torch.testing.assert_close(w, slow[name], atol=1e-4, rtol=1e-5)


def test_weights_in_bf16_are_rounded_once_and_checkpoints_keep_states_in_float32() -> None:
    torch.manual_seed(0)
    model = Small().bfloat16()
    plan = plan_of([replace(row, dtype="bfloat16") for row in small_rows(model)], "auto")
    opt = plain(plan, model.named_parameters(), lr=0.1)
    wide = Small()
    wide.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    exact = plain(plan, wide.named_parameters(), lr=0.1)
    for own, its in zip(model.parameters(), wide.parameters(), strict=True):
        own.grad = torch.randn(own.shape).bfloat16()
        its.grad = own.grad.float()
    opt.step()
    exact.step()
    for own, its in zip(model.parameters(), wide.parameters(), strict=True):
        assert torch.equal(own, its.bfloat16())
    twin, saved = copy.deepcopy(model), pickle.loads(pickle.dumps(opt.state_dict()))
    resumed = plain(plan, twin.named_parameters(), lr=0.1)
    resumed.load_state_dict(saved)
    for own, its in zip(model.parameters(), twin.parameters(), strict=True):
        assert all(value.dtype == torch.float32 for value in resumed.state[its].values())
        its.grad = own.grad = torch.randn(own.shape).bfloat16()
    opt.step()
    resumed.step()
    assert apart(model, twin) == 0.0


def test_a_checkpoint_resumes_to_the_bit_and_the_average_in_gradients_stays() -> None:
    for recipe in ("muon", "scion-light"):
        torch.manual_seed(0)
        model = Small()
        plan = plan_of(small_rows(model), recipe)
        opt = plain(plan, model.named_parameters(), lr=0.01)
        train(model, [opt], 2)
        held = all(p.grad is not None for p in model.parameters())
        assert held == (recipe == "scion-light")
        twin = copy.deepcopy(model)
        for own, its in zip(model.parameters(), twin.parameters(), strict=True):
            its.grad = None if own.grad is None else own.grad.clone()
        other = plain(plan, twin.named_parameters(), lr=1.0)
        other.load_state_dict(opt.state_dict())
        train(model, [opt], 2, 2)
        train(twin, [other], 2, 2)
        assert apart(model, twin) == 0.0
