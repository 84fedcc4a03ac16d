"""Targets of Modula's networks: by the package's own recursion, and by numbers worked out from the papers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import modula.atom
import modula.bond
import modula.compound
import pytest
import torch
from torch import nn

import normc
from normc.plans.plan import NormPlan
from tests.recipe.modula import nets, package

TOKENS = torch.randint(0, 65, (2, 16), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
RECIPES = ["modula", "modular-dual"]


def plan_of(
    model: nn.Module, inputs: Any, recipe: str, gains: str, tare: Mapping[str, float] | None = None, **options: float
) -> NormPlan:
    return normc.plan(
        model, inputs, recipe=recipe, options={"gains": gains, "position_mass": 1.0, **options}, tare=tare
    )


def ordered(plan: NormPlan, model: nn.Module) -> list[float]:
    """Targets in the package's order."""
    return [plan[name].target for name in nets.in_order(model)]


def certified(plan: NormPlan) -> None:
    found = plan.certificate()
    assert found.masses == pytest.approx(1.0, abs=1e-12)
    assert found.bound == pytest.approx(1.0, abs=1e-12)
    assert found.assumed == ()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("blocks", [1, 4, 16, 64])
def test_gpt_has_the_package_s_targets_at_every_depth(recipe: str, blocks: int) -> None:
    model = nets.GPT(65, 64, 4, 128, 32, 32, blocks)
    plan = plan_of(model, TOKENS, recipe, "modula")
    theirs = modula.compound.GPT(65, 64, 4, 128, 32, 32, blocks)
    assert theirs.mass == pytest.approx(7) and theirs.sensitivity == pytest.approx(1)
    assert ordered(plan, model) == pytest.approx(package.targets(theirs), rel=1e-9)
    block = [0.714286] * 3 + [0.238095] * 3
    assert ordered(plan, model) == pytest.approx([0.142857] * 2 + block * blocks + [0.142857], abs=1e-6)
    if blocks == 4:
        assert [plan[f"blocks.0.{name}.weight"].mass for name in "qo"] == pytest.approx([0.208333 / 7] * 2, abs=1e-6)
        found = [plan[name].sensitivity for name in ("tok.weight", "blocks.0.q.weight", "blocks.0.up.weight")]
        assert found == pytest.approx([0.5, 0.0416667, 0.125], abs=1e-6)
    certified(plan)


@pytest.mark.parametrize(
    ("blocks", "embed", "query", "out", "head"),
    [(4, 0.074074, 0.888889, 0.296296, 0.037037), (64, 0.005168, 0.992248, 0.330749, 0.002584)],
)
def test_without_tare_the_ends_of_a_gpt_stop_learning(
    blocks: int, embed: float, query: float, out: float, head: float
) -> None:
    model = nets.GPT(65, 64, 4, 128, 32, 32, blocks)
    tare = {"tok.*": 1.0, "pos.*": 1.0, "blocks.*": 6.0 * blocks, "head.*": 1.0}
    plan = plan_of(model, TOKENS, "modula", "modula", tare)
    theirs = modula.compound.GPT(65, 64, 4, 128, 32, 32, blocks)
    for leaf in package.leaves(theirs):
        leaf.mass = 1
    package.share_again(theirs)
    assert ordered(plan, model) == pytest.approx(package.targets(theirs), rel=1e-9)
    expected = [embed] * 2 + ([query] * 3 + [out] * 3) * blocks + [head]
    assert ordered(plan, model) == pytest.approx(expected, abs=1e-6)
    certified(plan)


@pytest.mark.parametrize("recipe", RECIPES)
def test_residual_networks_have_the_package_s_targets(recipe: str) -> None:
    flat = nets.ResMLP(128, 3, 2, 192, 10)
    plan = plan_of(flat, IMAGES, recipe, "modula", blocks_mass=1.0)
    theirs = modula.compound.ResMLP(128, 3, 2, 192, 10)
    assert theirs.mass == pytest.approx(3)
    assert ordered(plan, flat) == pytest.approx(package.targets(theirs), rel=1e-9)
    assert ordered(plan, flat) == pytest.approx([1 / 3, *[1 / 6] * 6, 1 / 3], rel=1e-9)
    certified(plan)
    images = nets.ResCNN(16, 3, 2, 3, 10)
    plan = plan_of(images, IMAGES, recipe, "modula", blocks_mass=20.0)
    theirs = modula.compound.ResCNN(16, 3, 2, 3, 10)
    assert theirs.mass == pytest.approx(22)
    assert ordered(plan, images) == pytest.approx(package.targets(theirs), rel=1e-9)
    assert ordered(plan, images) == pytest.approx([0.0454545, *[0.4545455] * 6, 0.0454545], abs=1e-6)
    for row in plan.rows[:-1]:
        assert row.norm == "slices"
        assert row.scale.value == pytest.approx(row.target * math.sqrt(16 / row.shape[1]) / 9)
    certified(plan)


def theirs_of(kind: str, depth: int) -> Any:
    """The package's plain MLP."""
    bond = {"relu": modula.bond.ReLU, "scaled relu": modula.bond.ScaledReLU}[kind]
    found = modula.atom.Linear(16, 16)
    for _ in range(depth - 1):
        found = modula.atom.Linear(16, 16) @ bond() @ found
    return found


@pytest.mark.parametrize(
    ("kind", "gains", "expected"),
    [
        ("relu", "modula", [0.7071068, 0.5]),
        ("relu", "modula", [0.6666667, 0.4714045, 0.3333333]),
        ("scaled relu", "modula", [1 / 3] * 3),
        ("relu", "sharp", [1 / 3] * 3),
    ],
)
def test_plain_networks(kind: str, gains: str, expected: list[float]) -> None:
    model = nets.MLP(len(expected), kind)
    for recipe in RECIPES:
        plan = plan_of(model, VECTORS, recipe, gains)
        assert ordered(plan, model) == pytest.approx(expected, abs=1e-6)
        certified(plan)
    if gains == "modula":
        theirs = theirs_of(kind, len(expected))
        assert ordered(plan, model) == pytest.approx(package.targets(theirs), rel=1e-9)
        assert plan["layers.0.weight"].sensitivity == pytest.approx(theirs.sensitivity, rel=1e-9)


def test_the_jax_package_s_networks() -> None:
    model: nn.Module = nets.MLP(3, "gelu")
    assert ordered(plan_of(model, VECTORS, "modular-dual", "sharp"), model) == pytest.approx([1 / 3] * 3, abs=1e-6)
    for blocks in (1, 4, 16):
        model = nets.PlainGPT(65, 4, 128, blocks)
        plan = plan_of(model, TOKENS, "modular-dual", "sharp")
        assert len(plan) == 6 * blocks + 2
        expected = [1 / 7, *([5 / 7] * 3 + [5 / 21] * 3) * blocks, 1 / 7]
        assert ordered(plan, model) == pytest.approx(expected, abs=1e-6)
        certified(plan)


def test_scales_of_the_attention_and_of_the_output() -> None:
    model = nets.PlainGPT(65, 4, 128, 4, attention_scale=4.0, final_scale=2.0)
    plan = plan_of(model, TOKENS, "modular-dual", "sharp")
    first = [plan[f"blocks.0.{name}.weight"].target for name in ("v", "q", "k", "o", "up", "down")]
    assert first == pytest.approx([0.182857, 0.045714, 0.045714, 0.060952, 0.060952, 0.060952], abs=1e-6)
    assert plan["tok.weight"].sensitivity == pytest.approx(4.8828125, abs=1e-6)
    assert plan["tok.weight"].target == pytest.approx(0.029257, abs=1e-6)
    assert plan["head.weight"].target == pytest.approx(0.071429, abs=1e-6)
    certified(plan)


def test_the_third_stands_in_front_of_the_attention() -> None:
    """The package's expression divides query, key and value, not what comes out: the logits are a ninth."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 8, 32).unbind()
    ours = torch.nn.functional.scaled_dot_product_attention(q / 3, k / 3, v / 3, is_causal=True, scale=1 / 32)
    bond = modula.bond.FunctionalAttention(causal=True)
    theirs = (bond * 1 / 3).forward([q, k, v], [])
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0)
    assert float((bond.forward([q, k, v], []) / 3 - theirs).abs().max()) > 1e-3
