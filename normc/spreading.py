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
from normc.update.runtime.ranked import Ranked, Updates, compared
from normc.update.runtime.rounding import local
from normc.update.runtime.spread import Held, copied, held


def spread(plan: NormPlan, build: Build, members: Mapping[str, Tensor], kept: Any, group: Any = None) -> Ranked:
    """The step of this rank; of plain tensors over the ranks of `group`, all of which have them.

    NormcError for parameters that lie in a way that no scheme is for.
    """
    if build.storage != PLAIN:
        said = "state_dtype, state_device and stochastic_rounding"
        raise NormcError(f"{said} aren't there for parameters that lie over several ranks", "leave them out")
    meshes = list(dict.fromkeys(tensor.device_mesh for tensor in members.values() if isinstance(tensor, DTensor)))
    teams = [_group(mesh) for mesh in meshes] or [group]
    orders = [_order(mesh, team) for mesh, team in zip(meshes, teams, strict=False)]
    sizes = [(torch.distributed.get_world_size(team), torch.distributed.get_rank(team)) for team in teams]
    widest = max(range(len(teams)), key=lambda team: sizes[team][0])
    places: dict[str, tuple[int, Held]] = {}
    for name, tensor in members.items():
        if not isinstance(tensor, DTensor):  # a tensor-parallel model's gains are plain ones, alike on all ranks
            places[name] = (widest, copied(tensor.shape, sizes[widest][0]))
            continue
        team = meshes.index(tensor.device_mesh)
        try:
            places[name] = (team, _held(tensor, orders[team]))
        except ValueError as error:
            raise NormcError(f"{name!r}: {error}", "reduce it first: redistribute to Replicate or Shard") from None
    _compare(plan, members, teams)
    recipe = recipe_of(plan)
    plain = [name for name, tensor in members.items() if not isinstance(tensor, DTensor)]
    spreads, programs = distribute(uncut(plan, build), recipe, places, sizes, cost, plain)
    updates = Updates(*(backends[build.backend].load(rewritten(program), recipe).update for program in programs))
    return Ranked(members, spreads, updates, teams, build.compile, kept, plan.hash)


def _compare(plan: NormPlan, members: Mapping[str, Tensor], teams: Sequence[Any]) -> None:
    """NormcError on all ranks where one has another plan than the rest."""
    device = local(next(iter(members.values()))).device
    same, _ = compared("\n".join(["plan", plan.hash, *(row.name for row in plan.rows)]), 0.0, teams, device)
    if not same:
        rank = torch.distributed.get_rank()
        raise NormcError(
            f"ranks have different plans; that of rank {rank} is {plan.hash[:16]}, of {len(plan)} rows",
            f"normc.save(opt.plan, 'plan{rank}.json') on every rank and compare two by `normc diff`. Plan on the same "
            "inputs, or give all ranks one plan: normc.compile(model, plan=normc.load(path))",
        )


def moving(gradients: Mapping[str, Tensor]) -> list[str]:
    """Which of these gradients aren't zeros alone, on any rank of the meshes that some of them lie over."""
    found = torch.stack([local(gradient).any().float() for gradient in gradients.values()])
    meshes: list[Any] = []
    for mesh in (getattr(gradient, "device_mesh", None) for gradient in gradients.values()):
        if mesh is not None and mesh not in meshes:
            meshes.append(mesh)
    for mesh in meshes:
        for axis in range(mesh.ndim):
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=mesh.get_group(axis))
    return [name for name, moves in zip(gradients, found.tolist(), strict=True) if moves]


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
