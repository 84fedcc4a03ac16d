"""A plan's update over ranks: from the parameters' placements to what this rank runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from normc.backends.backend import backends
from normc.errors import NormcError
from normc.passes.rewrites.distribute import distribute
from normc.passes.rewrites.windows import beside
from normc.plans.plan import NormPlan
from normc.recipe.by_name import recipe_of
from normc.update.program.program import Program
from normc.update.program.rates import DEFAULT
from normc.update.program.storage import WHOLE_FIX
from normc.update.program.work import cost
from normc.update.runtime.agreeing import compared
from normc.update.runtime.ranked import Ranked, Updates
from normc.update.runtime.rounding import local
from normc.update.runtime.spread import Held, copied, held


def spread(
    plan: NormPlan,
    program: Program,
    rewritten: Callable[[Program], Program],
    members: Mapping[str, Tensor],
    kept: Any,
    group: Any = None,
) -> Ranked:
    """The step of this rank; of plain tensors over the ranks of `group`, all of which have them. `program` is the
    plan's, uncut; its parts are `rewritten`.

    NormcError for parameters that lie in a way that no scheme is for, and where ranks have different plans.
    """
    build, recipe = program.build, recipe_of(plan)
    if why := build.storage.why_whole(next(iter(members.values())).device.type):
        raise NormcError(f"{why}, and parameters lie over ranks", WHOLE_FIX)
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
    # What a message's bytes are depends on the target too: a CPU may multiply 16 bits, or not.
    _compare(plan, f"{program.device.target}, {build}", members, teams)
    plain = [name for name, tensor in members.items() if not isinstance(tensor, DTensor)]
    spreads, parts = distribute(program, recipe, places, sizes, cost, plain, beside(program.device, DEFAULT))
    before, *whole, after = (backends[build.backend].load(rewritten(part), recipe).update
                             for part in (parts.before, *parts.whole, parts.after))  # fmt: skip
    updates = Updates(before, tuple(whole), after)
    return Ranked(members, spreads, updates, teams, build.compile, kept, plan.hash)


def _compare(plan: NormPlan, how: str, members: Mapping[str, Tensor], teams: Sequence[Any]) -> None:
    """NormcError on all ranks where one has another plan than the rest, or builds it in another way."""
    device = local(next(iter(members.values()))).device
    same, _ = compared("\n".join(["plan", plan.hash, how, *(row.name for row in plan.rows)]), 0.0, teams, device)
    if not same:
        rank = torch.distributed.get_rank()
        raise NormcError(
            f"ranks have different plans; that of rank {rank} is {plan.hash[:16]}, of {len(plan)} rows, for {how}",
            f"normc.save(opt.plan, 'plan{rank}.json') on every rank and compare two by `normc diff`. Plan on the same "
            "inputs, or give all ranks one plan and the same options: normc.compile(model, plan=normc.load(path))",
        )


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
