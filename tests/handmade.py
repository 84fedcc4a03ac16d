"""Plans built by hand, for tests of the update side."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.plans.balance import balanced
from normc.plans.plan import NormPlan
from normc.plans.row import Role, Row, Scale
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Recipe


def draft(name: str, shape: tuple[int, ...], role: Role, **facts: Any) -> Row:
    """A row with the axes that its role and number of axes suggest (as nn.Linear and nn.Embedding store them)."""
    axes = tuple(range(len(shape)))
    out_axes, in_axes = ((0,), axes[1:]) if role not in ("embedding", "position") else ((1,), (0,))
    facts = {"out_axes": out_axes if shape else (), "in_axes": in_axes, "block_axes": (), "kernel_axes": ()} | facts
    facts["in_axes"] = tuple(axis for axis in facts["in_axes"] if axis not in facts["kernel_axes"])
    sizes = {key: math.prod(shape[axis] for axis in facts[key]) for key in ("in_axes", "out_axes", "kernel_axes")}
    blank: dict[str, Any] = {
        "name": name, "aliases": (), "shape": shape, "dtype": "float32", "role": role, "uses": (),
        "fan_in": sizes["in_axes"] * sizes["kernel_axes"], "fan_out": sizes["out_axes"], "blocks": (), "norm": "",
        "rule": "none", "mass": None, "sensitivity": None, "scale": Scale(sympy.Integer(0), (0.0,)), "target": 0.0,
        "state_bytes": 0, "evidence": (),
    }  # fmt: skip
    return Row(**(blank | facts))


def finish(rows: Iterable[Row], recipe: Recipe, model: str = "Hand") -> NormPlan:
    """The plan that a recipe makes of drafts; for a recipe of masses, each has mass 1."""
    done = []
    rows = [replace(row, mass=1.0) if recipe.name in balanced and row.mass is None else row for row in rows]
    recipe = recipe.seeing(rows)
    for row in rows:
        chosen = recipe.geometry(row)
        scale = row.scaled(chosen.formula)
        row = replace(row, norm=chosen.norm, rule=chosen.rule, target=chosen.target, scale=scale)
        done.append(replace(row, state_bytes=recipe.state_bytes(row)))
    return NormPlan(tuple(done), model, recipe.name, tuple(sorted(recipe.options.items())), ())


def plan_of(rows: Iterable[Row], recipe: str = "scion", model: str = "Hand", **options: Any) -> NormPlan:
    """`finish` with a recipe by name."""
    return finish(rows, recipes[recipe].configure(**options), model)


def after(
    row: Row,
    start: Tensor,
    grads: Iterable[Tensor],
    recipe: str,
    options: dict[str, Any] | None = None,
    **build_with: Any,
) -> Tensor:
    """A weight after steps with these gradients, at lr 0.1."""
    w = nn.Parameter(start.clone())
    plan = plan_of([row], recipe, **(options or {}))
    opt = build(plan, [(row.name, w)], lr=0.1, compile=False, **build_with)
    for grad in grads:
        w.grad = grad.clone()
        opt.step()
    return w.detach()


class Small(nn.Module):
    """A little of everything: embedding, stacked matrices of two shapes, gains, biases, an output."""

    def __init__(self, width: int = 16, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(2 * width, width, bias=False) for _ in range(layers))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.head = nn.Linear(width, 11, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for up, down, norm in zip(self.up, self.down, self.norm, strict=True):
            x = x + down(torch.tanh(up(norm(x))))
        return self.head(x)


def small_rows(model: Small) -> list[Row]:
    """Drafts of `Small`'s parameters."""
    roles: dict[str, Role] = {"embed": "embedding", "head": "output", "norm": "gain"}
    rows = []
    for name, parameter in model.named_parameters():
        role = roles.get(name.split(".")[0], "hidden" if parameter.dim() == 2 else "bias")
        rows.append(draft(name, tuple(parameter.shape), role))
    return rows


def loss_of(model: nn.Module, seed: int) -> torch.Tensor:
    """A loss on random tokens of a seed."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 11, (4, 9), generator=generator)
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def train(model: nn.Module, opts: list[Any], steps: int, first: int = 0) -> None:
    """Plain training steps."""
    for seed in range(first, first + steps):
        loss_of(model, seed).backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()
