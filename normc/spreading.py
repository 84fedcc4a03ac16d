"""A plan's update over ranks: from the parameters' placements to what this rank runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from normc.backends.backend import backends
from normc.errors import NormcError
from normc.passes.rewrites.distribute import distribute
from normc.pipeline import lowered, rewritten
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.recipe.by_name import recipe_of
from normc.update.program.build import Build
from normc.update.runtime.ranked import Ranked, Updates
from normc.update.runtime.spread import Held, held


def placed(members: Mapping[str, Tensor]) -> Mapping[str, tuple[Any, Any]] | None:
    """Each parameter's mesh and placements; None where none lies over ranks."""
    found = {name: (tensor.device_mesh, tensor.placements) for name, tensor in members.items()
             if hasattr(tensor, "placements")}  # fmt: skip
    return found or None


def spread(plan: NormPlan, build: Build, members: Mapping[str, Tensor], kept: Any) -> Ranked:
    """The step of this rank. NormcError for parameters that lie in a way that no scheme is for."""
    if build.storage.state is not None or build.storage.stochastic:
        raise NormcError(
            "state_dtype and stochastic_rounding are not there for parameters that lie over several ranks",
            "leave them out",
        )
    meshes = {name: where for name, where in (placed(members) or {}).items()}
    mesh = next(iter(meshes.values()))[0]
    group = _group(mesh)
    shape = tuple(mesh.mesh.shape)
    holdings: dict[str, Held] = {}
    for name, tensor in members.items():
        if name not in meshes:
            raise NormcError(f"{name!r} is a plain tensor beside sharded ones", "shard the whole model, or none of it")
        own, placements = meshes[name]
        if own != mesh:
            raise NormcError(f"{name!r} lies on another mesh than the first parameter", "use one mesh")
        try:
            holdings[name] = held(tensor.shape, shape, placements)
        except ValueError as error:
            raise NormcError(f"{name!r}: {error}", "reduce it first: redistribute to Replicate or Shard") from None
    rank, ranks = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    spreads, programs = distribute(lowered(plan, build), holdings, ranks, rank, cost)
    recipe = recipe_of(plan)
    updates = Updates(*(backends[build.backend].load(rewritten(program), recipe).update for program in programs))
    return Ranked(members, spreads, updates, group, build.compile, kept)


def _group(mesh: Any) -> Any:
    if mesh.ndim == 1:
        return mesh.get_group()
    return mesh._flatten().get_group()


def cost(row: Row) -> float:
    """What the whole part of a row's step takes, in any unit: products of Newton-Schulz in the Gram form."""
    short, long = sorted((max(row.fan_in, 1), max(row.fan_out, 1)))
    blocks = max(len(row.blocks), 1)
    return float(row.numel) + short**3 * (6.0 * (long / short - 1) + 20.0) / blocks**2
