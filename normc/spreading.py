"""A plan's update over ranks: from the parameters' placements to what this rank runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from normc.backends.backend import backends
from normc.errors import NormcError
from normc.passes.rewrites.distribute import distribute
from normc.pipeline import rewritten, uncut
from normc.plans.plan import NormPlan
from normc.recipe.by_name import recipe_of
from normc.update.program.build import Build
from normc.update.program.storage import PLAIN
from normc.update.program.work import cost
from normc.update.runtime.ranked import Ranked, Updates
from normc.update.runtime.spread import Held, held


def spread(plan: NormPlan, build: Build, members: Mapping[str, Tensor], kept: Any) -> Ranked:
    """The step of this rank. NormcError for parameters that lie in a way that no scheme is for."""
    if build.storage != PLAIN:
        said = "state_dtype, state_device and stochastic_rounding"
        raise NormcError(f"{said} aren't there for parameters that lie over several ranks", "leave them out")
    teams: list[Any] = []
    meshes: list[Any] = []
    orders: list[list[int]] = []
    places: dict[str, tuple[int, Held]] = {}
    for name, tensor in members.items():
        if not isinstance(tensor, DTensor):
            raise NormcError(f"{name!r} is a plain tensor beside sharded ones", "shard the whole model, or none of it")
        mesh = tensor.device_mesh
        if mesh not in meshes:
            meshes.append(mesh)
            teams.append(_group(mesh))
            orders.append(_order(mesh, teams[-1]))
        try:
            places[name] = (meshes.index(mesh), _held(tensor, orders[meshes.index(mesh)]))
        except ValueError as error:
            raise NormcError(f"{name!r}: {error}", "reduce it first: redistribute to Replicate or Shard") from None
    sizes = [(torch.distributed.get_world_size(team), torch.distributed.get_rank(team)) for team in teams]
    spreads, programs = distribute(uncut(plan, build), places, sizes, cost)
    recipe = recipe_of(plan)
    updates = Updates(*(backends[build.backend].load(rewritten(program), recipe).update for program in programs))
    return Ranked(members, spreads, updates, teams, build.compile, kept)


_GROUPS: dict[tuple[int, ...], Any] = {}


def _group(mesh: Any) -> Any:
    """The process group of all ranks of a mesh. Made where there is none yet: its ranks come by here together."""
    if mesh.ndim == 1:
        return mesh.get_group()
    ranks = tuple(sorted(mesh.mesh.flatten().tolist()))
    if ranks == tuple(range(torch.distributed.get_world_size())):
        return torch.distributed.group.WORLD
    if ranks not in _GROUPS:
        _GROUPS[ranks] = torch.distributed.new_group(list(ranks), use_local_synchronization=True)
    return _GROUPS[ranks]


def _order(mesh: Any, group: Any) -> list[int]:
    """Places of a mesh, as its ranks come one after another in the group."""
    ranks = mesh.mesh.flatten().tolist()
    return sorted(range(len(ranks)), key=lambda index: torch.distributed.get_group_rank(group, ranks[index]))


def _held(tensor: Any, order: Sequence[int]) -> Held:
    """Who holds what, in the order of the group's ranks."""
    found = held(tensor.shape, tuple(tensor.device_mesh.mesh.shape), tensor.placements)
    if list(order) == list(range(len(order))):
        return found
    return Held(found.shape, tuple(found.parts[index] for index in order), tuple(found.alike[i] for i in order))
