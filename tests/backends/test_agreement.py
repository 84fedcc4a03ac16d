"""Generated code against the plain float64 reference: rewrites change nothing that the plain program computes."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normc.compiler import build
from normc.passes.rewrites.lower import lower
from normc.pipeline import program_of
from normc.plans.row import Block, Row
from normc.recipe.by_name import recipes
from normc.update.program.program import annotate, returned
from tests.handmade import Small, draft, plan_of, small_rows, train
from tests.ties import ROTATING, firm_bases

# Where 5e-3 moves some weights by less than 1e-2 in twenty steps.
LARGER = {"almond": 2e-2, "sgd": 5e-2, "shampoo": 1e-2, "kl-shampoo": 1e-2, "adafactor": 2e-2, "everett": 1e-3}
# Adafactor's steps are relative to the weights, at least to 1e-3: a bias of zero hardly moves. Everett's at 16 wide,
# tuned at 1024, are as large as they may be for matrices.
LEAST = {"adafactor": 1e-4, "everett": 5e-3}
# Float32 flips signs of averages that are nearly zero, and every step hangs on them.
STEADY: dict[str, dict[str, Any]] = {"adamuon": {"signs": False}}


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", list(recipes))
def test_twenty_steps_equal_the_reference(recipe: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 1e-4 of weights that move by more than 1e-2 (or `LEAST`); float32 against float64."""
    if recipe in ROTATING:
        firm_bases(monkeypatch)
    torch.manual_seed(0)
    ours = Small()
    plain, start = copy.deepcopy(ours), copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe, **STEADY.get(recipe, {}))
    lr = LARGER.get(recipe, 5e-3)
    fast = build(plan, ours.named_parameters(), lr=lr, compile=compiled)
    slow = build(plan, plain.named_parameters(), lr=lr, backend="reference")
    train(ours, [fast], 20)
    train(plain, [slow], 20)
    for mine, other, first in zip(ours.parameters(), plain.parameters(), start.parameters(), strict=True):
        assert float((mine - other).detach().abs().max()) < 1e-4
        assert float((mine - first).detach().abs().max()) > LEAST.get(recipe, 1e-2)


def test_compiled_steps_equal_the_reference_and_bf16_is_near() -> None:
    torch.manual_seed(0)
    models = [Small()]
    models += [copy.deepcopy(models[0]) for _ in range(2)]
    plan = plan_of(small_rows(models[0]), "scion")
    for model, target in zip(models, ("cpu:fp32", "reference", "cpu:bf16"), strict=True):
        train(model, [build(plan, model.named_parameters(), lr=5e-3, backend=target, compile=target != "cpu:bf16")], 3)
    fast, plain, narrow = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    torch.testing.assert_close(fast, plain, atol=2e-5, rtol=0)
    assert 0.0 < float((narrow - plain).abs().mean()) < 1e-3


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A row of any layout that the update side knows."""
    kind = draw(
        st.sampled_from(["linear", "turned", "unequal", "interleaved", "experts", "conv", "groups", "vector", "scalar"])
    )
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    role: Any = draw(st.sampled_from(["hidden", "input", "output", "router", "embedding", "state"]))
    frozen = draw(st.booleans())
    blocks: tuple[Block, ...]
    if kind == "turned":
        return draft("", (m, n), role, in_axes=(0,), out_axes=(1,), frozen=frozen)
    if kind == "unequal":
        axis = draw(st.integers(0, 1))
        blocks = (
            Block("a", axis, ((0, n),)),
            Block("b", axis, ((n, n + 1), (n + 2, n + 3))),
            Block("c", axis, ((n + 1, n + 2),)),
        )
        shape = (n + 3, m) if axis == 0 else (m, n + 3)
        return draft("", shape, role, blocks=blocks)
    if kind == "interleaved":
        heads = draw(st.integers(1, 3))
        starts = [[(head * 3 + i) * n for head in range(heads)] for i in range(3)]
        blocks = tuple(
            Block(label, 0, tuple((s, s + n) for s in own)) for label, own in zip("qkv", starts, strict=True)
        )
        return draft("", (3 * heads * n, m), role, blocks=blocks)
    if kind == "experts":
        return draft("", (3, n, m), role, block_axes=(0,), in_axes=(1,), out_axes=(2,))
    if kind == "conv":
        return draft("", (n, m, 3, 2), role, kernel_axes=(2, 3))
    if kind == "groups":
        blocks = tuple(Block(f"g{i}", 0, ((i * n, i * n + n),)) for i in range(4))
        return draft("", (4 * n, m, 3), role, kernel_axes=(2,), blocks=blocks)
    if kind == "vector":
        return draft("", (n,), draw(st.sampled_from(["gain", "bias", "token"])))
    return draft("", (), "scalar", frozen=frozen)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(rows(), min_size=1, max_size=5), st.sampled_from(list(recipes)), st.integers(0, 99))
def test_rewrites_keep_what_the_plain_program_computes(drafts: list[Row], recipe: str, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if recipe in ROTATING:
            firm_bases(patch)
        keeps_what_the_plain_program_computes(drafts, recipe, seed)


def keeps_what_the_plain_program_computes(drafts: list[Row], recipe: str, seed: int) -> None:
    torch.manual_seed(seed)
    # Each draft twice, so that there are stacks; the second is stored transposed, or has no gradient.
    drafts = [replace(row, name=f"layers.{copy_}.{i}") for i, row in enumerate(drafts) for copy_ in range(2)]
    plan = plan_of(drafts, recipe)
    fast = {row.name: torch.nn.Parameter(torch.randn(row.shape)) for row in plan.rows}
    for i, name in enumerate(fast):
        if i % 4 == 1 and fast[name].dim() >= 2:
            fast[name] = torch.nn.Parameter(fast[name].detach().transpose(0, -1).contiguous().transpose(0, -1))
    plain = {name: torch.nn.Parameter(parameter.detach().clone()) for name, parameter in fast.items()}
    start = {name: parameter.detach().clone() for name, parameter in fast.items()}
    # Shampoo's factors square a condition number, which float32 has to bear.
    numbers: dict[str, Any] = {"eps": 1e-2} if recipe == "shampoo" else {}
    ours = build(plan, fast.items(), lr=0.1, compile=False, **numbers)
    slow = build(plan, plain.items(), lr=0.1, backend="reference", **numbers)
    first = int(recipe in ROTATING)  # which moves nothing at its first step
    for step in range(first + 2):
        for i, name in enumerate(fast):
            skipped = i % 4 == 3 and step == first + 1
            plain[name].grad = None if skipped else torch.randn(plain[name].shape)
            fast[name].grad = None if skipped else plain[name].grad.clone()  # type: ignore[union-attr]
        ours.step()
        slow.step()
        # Two steps of a sign may lead back.
        assert step != first or not any(torch.equal(fast[row.name], start[row.name]) for row in plan.rows)
    for row in plan.rows:
        size = 1e-3 * 0.1 * max(1.0, *row.scale.per_block)
        torch.testing.assert_close(fast[row.name], plain[row.name], atol=size, rtol=1e-5)


def test_every_plain_graph_checks_its_shapes_without_data() -> None:
    plan = plan_of(small_rows(Small()), "muon")
    for chain in lower(plan, recipes["muon"]).chains:
        annotate(chain)
        assert returned(chain.graph)[0].meta["val"].shape == (1, *chain.row.shape)


def test_matrices_of_one_size_share_one_call_and_each_rewrite_says_why() -> None:
    program = program_of(plan_of(small_rows(Small()), "scion"))
    assert [family.name for family in program.families] == ["spectral_16x32", "vectors", "sign_output"]
    core = program.families[0].core
    assert core is not None
    polars = [node for node in core.graph.nodes if getattr(node.target, "__name__", "") == "polar"]
    assert len(polars) == 1
    assert polars[0].meta["val"].shape == (6, 16, 32)
    assert {decision.rule for decision in program.decisions} == {"laws", "fuse", "stack", "batch"}
    assert all(decision.what and decision.why for decision in program.decisions)
