"""Recipes: which norm and scale a role gets, closed forms of a step, and equality with torch's own optimizers."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from normc.compiler import build
from normc.errors import NormcError
from normc.plans.row import Block, Use
from normc.recipe.by_name import recipes
from tests.handmade import Small, draft, plan_of, small_rows, train

EXPECTED = [
    ("input", (64, 16), "spectral", math.sqrt(64 / 16)),
    ("input", (16, 64), "spectral", 1.0),
    ("hidden", (64, 16), "spectral", 3 * math.sqrt(64 / 16)),
    ("hidden", (8, 4, 3, 3), "spectral", 3 * math.sqrt(8 / 4) / 9),
    ("output", (50, 16), "sign", 10 / 16),
    ("embedding", (50, 16), "colnorm", 4.0),
    ("position", (50, 16), "colnorm", 0.4),
    ("gain", (16,), "rms", 0.3),
    ("bias", (16,), "rms", 0.3),
    ("router", (4, 16), "rownorm", 1 / 4),
    ("state", (16, 4), "sign", 1.0),
    ("scalar", (), "sign", 1.0),
]


@pytest.mark.parametrize(("role", "shape", "norm", "scale"), EXPECTED)
def test_scion_gives_each_role_its_norm_and_scale(role: str, shape: tuple[int, ...], norm: str, scale: float) -> None:
    kernel = {"kernel_axes": (2, 3)} if len(shape) == 4 else {}
    (row,) = plan_of([draft("w", shape, role, **kernel)]).rows  # type: ignore[arg-type]
    assert (row.norm, row.rule) == (norm, "lmo")
    assert row.scale.value == pytest.approx(scale)
    assert row.state_bytes == 4 * row.numel


def test_scion_of_a_tied_embedding_serves_the_output() -> None:
    use = Use("embedding", "aten.embedding", "", "", ("index", "out"))
    (row,) = plan_of([draft("w", (50, 16), "output", uses=(use,))]).rows
    assert row.norm == "sign"
    assert row.scale.value == pytest.approx(10 / 16)
    assert "embedding" in recipes["scion"].geometry(row).reason


def test_fallback_and_unused_rows_are_safe() -> None:
    rows = plan_of([draft("w", (8, 32), "hidden", fallback="unknown op"), draft("u", (4,), "unused")]).rows
    assert rows[0].norm == "sign"
    assert rows[0].scale.value == pytest.approx(3 / 32)
    assert (rows[1].rule, rows[1].state_bytes) == ("none", 0)
    (row,) = plan_of([draft("w", (8, 32), "hidden", fallback="unknown op")], "muon").rows
    assert (row.rule, row.state_bytes) == ("adamw", 2 * 4 * 256 + 4)


def test_options_are_checked() -> None:
    with pytest.raises(NormcError, match="did you mean 'radius_hidden'"):
        recipes["scion"].configure(radius_hiden=2.0)
    for bad in ("2", True, float("inf")):
        with pytest.raises(NormcError, match="radius_hidden"):
            recipes["scion"].configure(radius_hidden=bad)
    with pytest.raises(NormcError, match="adjust_lr"):
        plan_of([draft("w", (8, 4), "hidden")], "muon", adjust_lr="other")
    (row,) = plan_of([draft("w", (8, 4), "hidden")], "muon", adjust_lr="match_rms_adamw").rows
    assert row.scale.value == pytest.approx(0.2 * math.sqrt(8))
    (row,) = plan_of([draft("w", (8, 4), "hidden")], radius_hidden=7).rows
    assert row.target == 7


@pytest.mark.parametrize(("recipe", "kept"), [("scion", 0.9), ("uscion", 1.0)])
def test_scion_steps_have_their_closed_form(recipe: str, kept: float) -> None:
    w, b = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(4))
    plan = plan_of([draft("w", (3, 2), "output"), draft("b", (4,), "bias")], recipe)
    opt = build(plan, [("w", w), ("b", b)], lr=0.1, compile=False)
    first, second = torch.tensor([[1.0, -2.0], [3.0, 0.0], [-1.0, 5.0]]), torch.full((3, 2), -0.05)
    w.grad, b.grad = first, torch.tensor([3.0, 0.0, 0.0, 0.0])
    opt.step()
    expected = kept - 0.1 * 5.0 * first.sign()
    torch.testing.assert_close(w.detach(), expected)
    torch.testing.assert_close(b.detach(), torch.tensor([kept - 0.1 * 0.3 * 2.0, kept, kept, kept]))
    w.grad = second
    opt.step()
    average = 0.9 * 0.1 * first + 0.1 * second
    torch.testing.assert_close(w.detach(), kept * expected - 0.1 * 5.0 * average.sign())


def test_scion_keeps_weights_inside_their_ball() -> None:
    w = torch.nn.Parameter(torch.zeros(6, 4))
    opt = build(plan_of([draft("w", (6, 4), "hidden")], polynomial="exact"), [("w", w)], lr=0.3, compile=False)
    for _ in range(40):
        w.grad = torch.ones(6, 4)
        opt.step()
    radius = 3 * math.sqrt(6 / 4)
    assert float(torch.linalg.matrix_norm(w.detach(), 2)) == pytest.approx(radius, rel=1e-3)


def torch_pair(model: Small, lr: float) -> list[torch.optim.Optimizer]:
    named = dict(model.named_parameters())
    hidden = [name for name in named if name.startswith(("up", "down")) and named[name].dim() == 2]
    rest = [parameter for name, parameter in named.items() if name not in hidden]
    muon = torch.optim.Muon([named[name] for name in hidden], lr=lr)
    return [muon, torch.optim.AdamW(rest, lr=lr)]


@pytest.mark.parametrize(("patched", "tolerance"), [(True, 2e-5), (False, 4e-3)])
def test_muon_equals_torch(patched: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps. torch's own runs in bf16; with that patched out, both are the same computation in float32."""
    torch.manual_seed(0)
    ours = Small()
    theirs = copy.deepcopy(ours)
    start = copy.deepcopy(ours)
    opt = build(plan_of(small_rows(ours), "muon"), ours.named_parameters(), lr=2e-3, compile=False)
    pair = torch_pair(theirs, 2e-3)
    if patched:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    train(ours, [opt], 20)
    train(theirs, pair, 20)
    for mine, other, first in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        assert float((mine - other).detach().abs().max()) <= tolerance
        assert float((mine - first).detach().abs().max()) > 1e-2


def test_muon_sees_the_true_fan_in_and_each_block_apart() -> None:
    """A Conv1D-like (in, out) matrix with three blocks of outputs equals three nn.Linear matrices."""
    torch.manual_seed(1)
    blocks = tuple(Block(name, 1, ((i * 8, i * 8 + 8),)) for i, name in enumerate("qkv"))
    fused = torch.nn.Parameter(torch.randn(4, 24))
    parts = [torch.nn.Parameter(fused.detach()[:, i * 8 : i * 8 + 8].T.clone()) for i in range(3)]
    row = draft("w", (4, 24), "hidden", in_axes=(0,), out_axes=(1,), blocks=blocks)
    opt = build(plan_of([row], "muon"), [("w", fused)], lr=0.1, compile=False)
    named = [(name, part) for name, part in zip("qkv", parts, strict=True)]
    plain = build(plan_of([draft(name, (8, 4), "hidden") for name in "qkv"], "muon"), named, lr=0.1, compile=False)
    fused.grad = torch.randn(4, 24)
    for i, part in enumerate(parts):
        part.grad = fused.grad[:, i * 8 : i * 8 + 8].T.clone()
    opt.step()
    plain.step()
    torch.testing.assert_close(fused.detach(), torch.cat([part.detach() for part in parts]).T)


BLOCKED = [
    ("interleaved", (12, 5), {}, (Block("a", 0, ((0, 2), (4, 6), (8, 10))), Block("b", 0, ((2, 4), (6, 8), (10, 12))))),
    ("unequal", (7, 5), {}, (Block("a", 0, ((0, 1), (3, 7))), Block("b", 0, ((1, 3),)))),
    ("along fan-in", (5, 7), {}, (Block("a", 1, ((0, 3),)), Block("b", 1, ((3, 7),)))),
    ("groups", (6, 4, 3), {"kernel_axes": (2,)}, tuple(Block(f"{i}", 0, ((2 * i, 2 * i + 2),)) for i in range(3))),
    ("experts", (3, 5, 4), {"block_axes": (0,), "in_axes": (1,), "out_axes": (2,)}, ()),
]


@pytest.mark.parametrize(("shape", "axes", "blocks"), [case[1:] for case in BLOCKED], ids=[case[0] for case in BLOCKED])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_each_block_gets_its_own_unit_step(
    backend: str, shape: tuple[int, ...], axes: dict[str, Any], blocks: tuple[Block, ...]
) -> None:
    """Against blocks that are cut out by plain indexing, and U V^T of each."""
    row = draft("w", shape, "hidden", blocks=blocks, **axes)
    w = torch.nn.Parameter(torch.zeros(shape))
    w.grad = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    build(plan_of([row], polynomial="exact"), [("w", w)], lr=1.0, backend=backend, compile=False).step()
    if not blocks:
        pieces = [(w.detach()[i].T, w.grad[i].T, 4) for i in range(shape[0])]
    else:
        axis = blocks[0].axis
        chosen = [torch.cat([torch.arange(*span) for span in block.spans]) for block in blocks]
        cut = [(w.detach().index_select(axis, own), w.grad.index_select(axis, own)) for own in chosen]
        pieces = [(step.flatten(1), grad.flatten(1), step.shape[1]) for step, grad in cut]
    for step, grad, fan_in in pieces:
        u, _, vh = torch.linalg.svd(grad, full_matrices=False)
        fan_in, kernel = (shape[axes["in_axes"][0]], 1) if not blocks else (fan_in, shape[2] if len(shape) > 2 else 1)
        scale = 3 * math.sqrt(step.shape[0] / fan_in) / kernel
        torch.testing.assert_close(step, -scale * (u @ vh), atol=1e-4, rtol=1e-4)
