"""Weights start on the spheres that their steps are measured in."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import normc
from normc.plans.geometry import norms
from normc.recipe.by_name import recipes
from tests.handmade import Small, draft, finish
from tests.recipe.modula import nets

IDS = torch.arange(8).view(2, 4)


def singular_values(weight: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(weight.detach().double())


@pytest.mark.parametrize("recipe", ["modular-dual", "modula"])
def test_modula_s_start(recipe: str) -> None:
    """As in its package: matrices semi-orthogonal times sqrt(out / in), rows of embeddings of RMS 1."""
    model = nets.GPT(65, 16, 2, 32, 16, 16, 2)
    plan = normc.plan(model, torch.zeros(2, 8, dtype=torch.long), recipe=recipe)
    assert normc.init_(model, plan) == ()
    for name, weight in model.named_parameters():
        if plan[name].norm == "spectral":
            fan_out, fan_in = weight.shape
            expected = torch.full((min(weight.shape),), math.sqrt(fan_out / fan_in), dtype=torch.float64)
            torch.testing.assert_close(singular_values(weight), expected, rtol=1e-5, atol=1e-6)
        else:
            torch.testing.assert_close(weight.detach().square().mean(1).sqrt(), torch.ones(len(weight)))


def test_scion_starts_on_the_boundary_of_each_ball() -> None:
    model = Small()
    plan = normc.plan(model, IDS, recipe="scion", options={"radius_hidden": 5.0})
    normc.init_(model, plan)
    for name, weight in model.named_parameters():
        row = plan[name]
        if row.role in ("gain", "bias"):
            assert (weight == (1.0 if row.role == "gain" else 0.0)).all()
            continue
        matrix = weight.detach().double().T if row.role == "embedding" else weight.detach().double()
        found = float(norms[row.norm].measure(matrix[None])[0])
        assert found == pytest.approx(row.scale.value, rel=1e-5), name
    assert singular_values(model.get_parameter("up.0.weight"))[0] == pytest.approx(5.0 * math.sqrt(2), rel=1e-5)


def test_blocks_and_windows_are_on_spheres_of_their_own() -> None:
    from normc.initialise import on_sphere
    from normc.plans.row import Block

    blocks = tuple(Block(label, 0, ((start, start + 4),)) for label, start in (("q", 0), ("k", 4), ("v", 8)))
    drafts = [draft("qkv", (12, 4), "hidden", blocks=blocks), draft("conv", (6, 4, 3, 3), "hidden", kernel_axes=(2, 3))]
    plan = finish(drafts, recipes["modular-dual"])
    fused = on_sphere(plan["qkv"], recipes["modular-dual"].sphere(plan["qkv"]), 0)
    for part in fused.split(4):
        torch.testing.assert_close(singular_values(part), torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    conv = on_sphere(plan["conv"], recipes["modular-dual"].sphere(plan["conv"]), 0)
    expected = torch.full((4,), math.sqrt(6 / 4) / 9, dtype=torch.float64)
    for place in conv.flatten(2).unbind(2):
        torch.testing.assert_close(singular_values(place), expected, rtol=1e-5, atol=1e-6)


def test_the_seed_and_the_name_decide_and_nothing_else_does() -> None:
    plan = normc.plan(Small(), IDS)
    first, second, other = Small(), Small(layers=3), Small()
    torch.manual_seed(1)
    normc.init_(first, plan, seed=3)
    torch.manual_seed(2)
    normc.init_(second, plan, seed=3)
    normc.init_(other, plan, seed=4)
    for mine, same, apart in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, same)
        assert mine.dim() == 1 or not torch.equal(mine, apart)
    assert not torch.equal(first.get_parameter("up.0.weight"), first.get_parameter("up.1.weight"))


def test_a_model_on_meta_is_materialised_first() -> None:
    with torch.device("meta"):
        model = Small()
    plan = normc.plan(Small(), IDS)
    with pytest.raises(normc.NormcError, match=r"meta device\n.*to_empty"):
        normc.init_(model, plan)
    model.to_empty(device="cpu")
    assert normc.init_(model, plan) == ()
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_what_has_no_sphere_is_kept_and_named() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(8, 8, bias=False)
            self.heat = nn.Parameter(torch.tensor(2.0))
            self.idle = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.up(x) * self.heat
            return result

    model = Gated()
    plan = normc.plan(model, torch.randn(2, 8))
    assert set(normc.init_(model, plan)) == {"heat", "idle"}
    assert model.heat.item() == 2.0
    muon = normc.plan(Small(), IDS, recipe="muon")
    assert set(normc.init_(Small(), muon)) == {row.name for row in muon.rows if row.rule == "adamw"}
    with pytest.raises(normc.NormcError, match="has no parameter"):
        normc.init_(Gated(), muon)
    with pytest.raises(normc.NormcError, match=r"has \(11, 8\), not \(11, 16\), for 'embed.weight'"):
        normc.init_(Small(width=8), muon)
