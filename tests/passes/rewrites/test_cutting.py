"""What crosses ranks in 16 bits has no more than these."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from normc.passes.rewrites.cutting import Cut, cut
from normc.pipeline import lowered
from normc.plans.row import Block
from normc.recipe.by_name import recipes
from normc.update.ops.matrices import polar
from normc.update.program.build import ON_CPU
from normc.update.program.program import Chain, annotate, evaluate, placeholders, returned, state_dtype
from normc.update.runtime.codes import PASSING
from tests.handmade import draft, plan_of

THIRDS = tuple(Block(label, 0, ((start, start + 3),)) for label, start in (("q", 0), ("k", 3), ("v", 6)))
ROWS = [
    draft("qkv.weight", (9, 5), "hidden", blocks=THIRDS),
    draft("up.weight", (7, 5), "hidden"),
    draft("experts.up", (5, 3, 7), "hidden", block_axes=(0,), out_axes=(1,), in_axes=(2,)),
    draft("table.weight", (11, 5), "embedding"),
    draft("head.weight", (11, 5), "output"),
    draft("norm.weight", (5,), "gain"),
]


def cut_chains(recipe: str, polar_dtype: torch.dtype | None) -> list[tuple[Chain, Cut]]:
    """The plain chains of a recipe that need whole tensors somewhere, cut."""
    chains = [annotate(chain) for chain in lowered(plan_of(ROWS, recipe), ON_CPU).chains]
    found = [(chain, cut(chain, polar_dtype)) for chain in chains]
    return [(chain, own) for chain, own in found if own.whole is not None]


def run_whole(chain: Chain, own: Cut, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What the whole part hands on, of random numbers, with Newton-Schulz in `dtype`."""
    graph = own.whole
    assert isinstance(graph, fx.Graph)
    for node in graph.nodes:
        if node.target is polar:
            node.kwargs = {**node.kwargs, "dtype": dtype}
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, object] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            kind = node.meta.get("state", "like")
            shape = (
                chain.row.shape
                if kind in ("like", "grad", PASSING)
                else ()
                if kind == "count"
                else map(int, kind.split("x"))
            )
            drawn = torch.rand((1, *shape), generator=generator, dtype=state_dtype(chain.row)) + 0.1
            inputs[node.name] = 0.5 if node.meta["kind"] == "number" else drawn
    names = [node.name for node in placeholders(graph, "state")]
    return dict(zip(names, evaluate(graph, inputs)[1:], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("recipe", list(recipes))
def test_what_crosses_narrow_is_exact(recipe: str, dtype: torch.dtype) -> None:
    for chain, own in cut_chains(recipe, dtype):
        values = run_whole(chain, own, dtype)
        for one in own.back:
            if one.wire is not None:
                assert one.wire == dtype and values[one.name].abs().max() > 0
                assert torch.equal(values[one.name], values[one.name].to(dtype).to(values[one.name].dtype)), one
        assert all(one.wire is None for one in (*own.there, *own.across))


def test_results_of_newton_schulz_cross_narrow_where_it_rounds() -> None:
    narrow = {chain.row.name: [one.wire for one in own.back] for chain, own in cut_chains("muon", torch.float16)}
    hidden = ("qkv.weight", "up.weight", "experts.up")
    assert narrow == {name: [torch.float16] for name in hidden}
    wide = {chain.row.name: [one.wire for one in own.back] for chain, own in cut_chains("muon", None)}
    assert wide == {name: [None] for name in hidden}
    # Of NorMuon's, rows are scaled behind it: those numbers have more bits.
    assert all(one.wire is None for _, own in cut_chains("normuon", torch.float16) for one in own.back)


def test_factors_stay_behind_the_way() -> None:
    for _, own in cut_chains("muon", torch.bfloat16):
        assert own.whole is not None and own.after is not None
        scaled = [node for node in own.whole.nodes if getattr(node.target, "__name__", "") == "scale"]
        assert not scaled and any(getattr(node.target, "__name__", "") == "scale" for node in own.after.nodes)
        assert len(returned(own.after)) == 2
