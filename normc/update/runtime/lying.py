"""How states lie over ranks: as their parameter does, or along an axis of their own. Needs torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, zeros

from normc.update.runtime.spread import boxes, held


def shape_of(kind: str) -> tuple[int, ...]:
    """Of a kind as "3x64"."""
    return tuple(map(int, kind.split("x")))


def elsewhere(placements: Sequence[Any], kind: str) -> list[Any]:
    """How a state of a shape of its own lies: along its longest axis, over the ranks that its parameter is cut over."""
    shape = shape_of(kind)
    along = Shard(max(range(len(shape)), key=lambda axis: shape[axis]))
    return [placement if placement.is_replicate() else along for placement in placements]


def states_of(
    member: Tensor, states: Sequence[tuple[str, str]], wide: torch.dtype, narrow: torch.dtype | None = None
) -> dict[str, Tensor]:
    """A parameter's states, all zero. Those of a distributed one lie as it does, or as `elsewhere` says. They are
    `wide`, or `narrow` if they are shaped like it.
    """
    found: dict[str, Tensor] = {}
    for name, kind in states:
        dtype = narrow or wide if kind == "like" else wide
        shape = tuple(member.shape) if kind == "like" else () if kind in ("count", "grad") else shape_of(kind)
        if kind == "count":
            found[name] = torch.tensor(0.0)
        elif kind != "grad" and isinstance(member, DTensor):
            placed = member.placements if kind == "like" else elsewhere(member.placements, kind)
            found[name] = zeros(shape, dtype=dtype, device_mesh=member.device_mesh, placements=placed)
        elif kind != "grad":
            found[name] = torch.zeros(shape, dtype=dtype, device=member.device)
    return found


def laid_out(whole: Tensor, member: Tensor, kind: str) -> Tensor:
    """A whole state of a parameter that lies over ranks now, cut as it lies. Every rank keeps its part of its own."""
    if kind == "count" or not isinstance(member, DTensor):
        return whole
    mesh, sizes = member.device_mesh, tuple(member.device_mesh.mesh.shape)
    placements = member.placements if kind == "like" else elsewhere(member.placements, kind)
    part = held(whole.shape, sizes, placements).parts[_number(mesh.get_coordinate() or [], sizes)]
    own = whole.new_empty(tuple(sum(stop - start for start, stop in runs) for runs in part))
    for outer, inner in boxes(whole, part, own):
        inner.copy_(outer)
    whole = whole.contiguous()
    return DTensor.from_local(own, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride())


def _number(place: Sequence[int], sizes: Sequence[int]) -> int:
    """Of a place in a mesh, counting along its last axis first."""
    number = 0
    for index, size in zip(place, sizes, strict=True):
        number = number * size + index
    return number
