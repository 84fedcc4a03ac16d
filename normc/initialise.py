"""Weights on the spheres that a plan's steps are measured in, as Scion and Modula start them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import sympy
import torch
from torch import Tensor, nn

from normc.arguments import instance, whole
from normc.errors import NormcError
from normc.model.trace.names import named_parameters
from normc.plans.row import Row
from normc.recipe.by_name import recipe_of
from normc.recipe.stages.build import Builder
from normc.recipe.stages.norm import Lmo
from normc.update.program.program import evaluate

if TYPE_CHECKING:
    from normc.plans.plan import NormPlan

_KEPT = ("state", "scalar", "unused")


@torch.no_grad()
def init_(model: nn.Module, plan: NormPlan, *, seed: int = 0) -> tuple[str, ...]:
    """Put every weight of `model`, in place, on the boundary of its norm's ball.

    A matrix becomes semi-orthogonal (in each of its blocks, and in each place of a convolution's window), a table's
    rows and a token random of RMS 1, an output's signs random: the unit step of a Gaussian, times the norm's scale and
    the radius that the recipe gives weights (Scion: its own radii, arXiv 2502.07529, tables 2 to 4; others 1, as
    Modula, 2405.14813). Gains become 1 and biases 0. A parameter's numbers depend on `seed` and its name alone.

    Returns the names of what was left as it was: frozen rows, those without a gradient or a norm of their own
    (AdamW's), and those that are no vector and no matrix (a state's decay, a temperature). NormcError if a parameter is
    missing, of another shape, or on the meta device: materialise the model before, with `model.to_empty(device=...)`;
    what is left as it was is then for its own module to fill.
    """
    instance("model", model, nn.Module, "pass a torch.nn.Module")
    recipe = recipe_of(plan)
    seed = whole("seed", seed, -(2**62), "give a whole number")
    named = dict(named_parameters(model, remove_duplicate=False))
    kept = []
    for row in plan.rows:
        name = next((name for name in (row.name, *row.aliases) if name in named), None)
        if name is None or tuple(named[name].shape) != row.shape:
            problem = "has no parameter" if name is None else f"has {tuple(named[name].shape)}, not {row.shape}, for"
            raise NormcError(f"the model {problem} {row.name!r}", "plan this model, or give the planned one")
        weight = named[name]
        if weight.is_meta:
            raise NormcError(f"{row.name!r} is on the meta device", "call model.to_empty(device=...) first")
        normed = row.rule in recipe.member(row).normed
        if row.role in _KEPT or row.frozen or row.fallback is not None or row.numel == 0 or not normed:
            kept.append(row.name)
        elif row.role in ("gain", "bias"):
            weight.fill_(1.0 if row.role == "gain" else 0.0)
        else:
            weight.copy_(on_sphere(row, recipe.sphere(row), seed))
    return tuple(kept)


def on_sphere(row: Row, formula: sympy.Expr, seed: int) -> Tensor:
    """A random tensor of the row's shape whose norm is `formula`'s: Haar for matrices, uniform for vectors. On CPU."""
    digest = hashlib.sha256(f"{seed}:{row.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    dtype = torch.float64 if row.dtype == "float64" else torch.float32
    noise = torch.randn((1, *row.shape), generator=generator, dtype=dtype)
    build = Builder(replace(row, scale=row.scaled(formula)))
    build.weight = Lmo().emit(build, build.grad)
    (point,) = evaluate(build.finish(), {"w": noise, "g": noise})
    assert isinstance(point, Tensor)
    return point[0]
