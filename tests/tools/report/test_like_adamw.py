"""lr_like_adamw: by hand from norms, scales and shapes; against steps that are measured on a real model."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc.recipe.by_name import recipes
from normc.tools.report.words import number


class Small(nn.Module):
    """An embedding, a convolution, hidden matrices, norms and biases, a head; every token is in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(24, 32), nn.Conv1d(32, 32, 3, padding=1)
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(96, 32)
        self.head = nn.Linear(32, 24)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, time] -> [batch, time, 24]."""
        x = self.embed(ids)
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        out: Tensor = self.head(x)
        return out


def batch(step: int, noise: bool) -> tuple[Tensor, Tensor]:
    """24 shuffled rows that hold every token. With `noise` the next token is any."""
    draw = torch.Generator().manual_seed(step)
    ids = torch.stack([torch.randperm(24, generator=draw) for _ in range(24)])
    return ids, torch.randint(0, 24, ids.shape, generator=draw) if noise else (5 * ids + 1) % 24


def measured(opt: torch.optim.Optimizer, model: nn.Module, steps: int, noise: bool = False) -> list[list[Tensor]]:
    """The changes of all parameters in the last of so many steps."""
    before: list[Tensor] = []
    changes = []
    for step in range(steps):
        ids, following = batch(step, noise)
        F.cross_entropy(model(ids).flatten(0, 1), following.flatten()).backward()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        opt.step()
        opt.zero_grad()
        changes.append([new.detach() - old for new, old in zip(model.parameters(), before, strict=True)])
    return changes


def rms(tensors: list[Tensor]) -> float:
    """Of all entries together."""
    return float(torch.cat([each.flatten() for each in tensors]).square().mean().sqrt())


PLANS: list[tuple[str, dict[str, Any]]] = [
    ("auto", {}),
    ("uscion", {}),
    ("muon", {}),
    ("muon", {"dialect": "moonlight"}),
    ("normuon", {}),
    ("normuon", {"update_scale": "match_rms"}),
    ("lion", {}),
    ("signum", {}),
]


@pytest.mark.parametrize(("recipe", "options"), PLANS, ids=lambda value: "-".join(map(str, value)) or None)
def test_the_step_has_the_size_of_adamws(recipe: str, options: dict[str, Any]) -> None:
    """At lr_like_adamw's rate a step is 0.2 lr of AdamW. The first step of AdamW rows is of RMS 1, not of 0.2."""
    torch.manual_seed(0)
    model = Small()
    ids = batch(0, True)[0]
    plan = normc.plan(model, ids, recipe=recipe, options=options)
    lr = normc.lr_like_adamw(plan, 1e-3)
    assert isinstance(lr, float)
    opt = normc.compile(model, plan=plan, lr=lr, compile=False, weight_decay=0.0)
    (changes,) = measured(opt, model, 1)
    of_adam = [row.rule == "adamw" for row in plan.rows]
    sized = [0.2 * change if adam else change for adam, change in zip(of_adam, changes, strict=True)]
    assert rms(sized) == pytest.approx(0.2e-3, rel=0.1)


def test_adamw_on_gradients_without_memory_is_of_the_size_that_is_said() -> None:
    """The formula behind 0.2: sqrt((1 - beta1) / (1 + beta1)) for gradients that are independent."""
    weight = nn.Parameter(torch.zeros(200_000))
    opt = torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    torch.manual_seed(0)
    for _ in range(100):
        before = weight.detach().clone()
        weight.grad = torch.randn_like(weight)
        opt.step()
    assert rms([weight.detach() - before]) == pytest.approx(1e-3 * math.sqrt(0.1 / 1.9), rel=0.05)


def test_adamw_on_a_model_that_learns_is_between() -> None:
    torch.manual_seed(0)
    model = Small()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    sizes = [rms(changes) / 1e-3 for changes in measured(opt, model, 120, noise=True)[-20:]]
    assert 0.15 < min(sizes) <= max(sizes) < 0.45


def test_by_hand() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(8, 32, bias=False), nn.Linear(32, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.mix(x).relu())
            return out

    plan = normc.plan(Two(), torch.zeros(2, 8), recipe="uscion")
    one, two = plan.rows
    assert (one.norm, two.norm) == ("spectral", "sign")
    squares = one.scale.value**2 * 8 + two.scale.value**2 * 128
    assert normc.lr_like_adamw(plan, 3e-4) == pytest.approx(0.2 * 3e-4 / math.sqrt(squares / 384))
    assert normc.lr_like_adamw(plan, 3e-4, rms=0.4) == pytest.approx(0.4 * 3e-4 / math.sqrt(squares / 384))
    assert normc.lr_like_adamw(normc.plan(Two(), torch.zeros(2, 8), recipe="adamw"), 3e-4) == pytest.approx(3e-4)
    frozen = Two()
    frozen.head.requires_grad_(False)
    plan = normc.plan(frozen, torch.zeros(2, 8), recipe="uscion")
    assert normc.lr_like_adamw(plan, 3e-4) == pytest.approx(0.2 * 3e-4 / math.sqrt(one.scale.value**2 * 8 / 256))


def test_moonlight_keeps_adamws_rate_where_matrices_are_square() -> None:
    model = nn.Sequential(nn.Embedding(16, 32), nn.Linear(32, 32, bias=False), nn.Linear(32, 16, bias=False))
    ids = torch.arange(16).reshape(2, 8)
    plan = normc.plan(model, ids, recipe="muon", options={"dialect": "moonlight"})
    assert normc.lr_like_adamw(plan, 1e-3) == pytest.approx(1e-3)


def test_of_several_recipes_each_has_its_own() -> None:
    model, ids = Small(), batch(0, True)[0]
    mixed = normc.plan(model, ids, recipe="lion, output=adamw")
    found = normc.lr_like_adamw(mixed, 1e-3)
    assert isinstance(found, dict)
    assert found == {"lion": pytest.approx(0.2e-3), "adamw": pytest.approx(1e-3)}
    opt = normc.compile(model, plan=mixed, lr=found, compile=False)
    assert {group["lr"] for group in opt.param_groups if group["params"]} == set(found.values())


SIZED = {
    *("adalayer", "adam", "adamw", "completep", "everett", "lion", "modular-dual", "mup-adam", "muon", "normuon"),
    *("scion", "scion-light", "signum", "soap", "u-mup", "uscion"),
}
UNSIZED = {
    "adafactor": "by RelativeToWeights is a share of the weights' own size",
    "adam-atan2": "by Radius is as large as its gradient makes it",
    "almond": "by EmaOfSteps is an average",
    "hyperball": "by Sphere is a share of the weights' own size",
    "modula": "by Rescale is a gradient over its norm",
    "modula-adam": "by Rescale is a gradient over its norm",
    "sgd": "by Radius is as large as its gradient makes it",
    "shampoo": "by Radius is as large as its gradient makes it",
}


@pytest.mark.parametrize("name", sorted(recipes))
def test_every_recipe_has_a_rate_or_says_why_not(name: str) -> None:
    plan = normc.plan(Small(), batch(0, True)[0], recipe=name)
    try:
        lr = normc.lr_like_adamw(plan, 1e-3)
    except normc.NormcError as problem:
        assert name not in SIZED
        assert re.search(rf"the step of '.*' {UNSIZED.get(name, 'by')}[\s\S]*fix: tune its lr", str(problem))
        assert "as large as AdamW's" not in str(plan)
        return
    assert name not in UNSIZED
    assert isinstance(lr, float)
    assert 0 < lr < math.inf
    assert normc.lr_like_adamw(plan, 2e-3) == pytest.approx(2 * lr)
    assert normc.lr_like_adamw(plan, 0.0) == 0.0
    assert f"{number(lr)} for steps as large as AdamW's at 0.001" in str(plan)


def test_what_has_no_answer() -> None:
    model, ids = Small(), batch(0, True)[0]
    plan = normc.plan(model, ids)
    for bad in (-1e-3, math.nan, math.inf):
        with pytest.raises(normc.NormcError, match=f"lr is {bad}\n  fix: give AdamW's learning rate"):
            normc.lr_like_adamw(plan, bad)
    with pytest.raises(normc.NormcError, match="rms is 0\n  fix: give that of AdamW's step"):
        normc.lr_like_adamw(plan, 1e-3, rms=0)
    still = normc.plan(model.requires_grad_(False), ids)
    with pytest.raises(normc.NormcError, match="nothing learns by modular-dual"):
        normc.lr_like_adamw(still, 1e-3)
