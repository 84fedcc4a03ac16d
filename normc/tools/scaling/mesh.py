"""A mesh as text, and how a model's parameters lie on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from normc.arguments import instance
from normc.errors import NormcError
from normc.plans.row import Row

MOST_RANKS = 65_536
_FIX = 'write "fsdp=8", "hsdp=2x4", or several: "dp=2,fsdp=4,tp=2"; ep is a part of fsdp: "fsdp=64,ep=8"'
# Layers whose result is added to the residual stream: tensor parallelism cuts these along their fan-in.
FAN_IN = (
    "o", "o_proj", "out_proj", "c_proj", "wo", "attn.proj", "attention.dense", "attention.output.dense",
    "down", "down_proj", "w2", "fc2", "mlp.proj", "dense_4h_to_h", "output.dense",
)  # fmt: skip

Lies = tuple[tuple[int, ...], tuple[Any, ...]]  # a mesh's shape, and a placement for each of its axes


@dataclass(frozen=True, slots=True)
class Mesh:
    """How many ranks each kind of parallelism has. There are dp * fsdp * tp ranks; those of `ep` are among fsdp's.

    dp    every parameter is there as often: alone as plain tensors (DDP), beside fsdp as the replicas of HSDP
    fsdp  every parameter is cut along axis 0, as FSDP2 does
    tp    matrices are cut along their fan-out; those of `FAN_IN` along their fan-in, embeddings along their rows,
          biases with their matrix. All else is replicated. Neighbouring ranks are one tp group
    ep    stacks of experts are cut along the experts' axis, and over fsdp / ep ranks along axis 0, or along axis 1
          where there are fewer experts than ranks
    """

    dp: int = 1
    fsdp: int = 1
    tp: int = 1
    ep: int = 1

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.dp * self.fsdp * self.tp

    def __str__(self) -> str:
        said = [f"{each.name}={size}" for each in fields(self) if (size := getattr(self, each.name)) > 1]
        return ",".join(said) or "fsdp=1"

    @property
    def plain(self) -> bool:
        """Whether parameters are plain tensors, whole on every rank."""
        return self.dp > 1 and self.fsdp == self.tp == 1

    def lies(self, row: Row, weight: Row | None = None) -> Lies | None:
        """How a row's parameter lies, None for a plain one; `weight` is the matrix that it is the bias of."""
        if self.plain:
            return None
        if self.ep > 1 and (along := _experts(row)) is not None:
            return self._experts_lie(row, along)
        cut = _tp_axis(row, weight) if self.tp > 1 else None
        shard: Any = Replicate() if not row.shape else Shard(0)
        if cut == 0 and self.fsdp > 1:
            shard = _StridedShard(0, split_factor=self.tp)
        axes = [
            (self.dp, Replicate()), (self.fsdp, shard), (self.tp, Replicate() if cut is None else Shard(cut)),
        ]  # fmt: skip
        return _without_ones(axes)

    def _experts_lie(self, row: Row, along: int) -> Lies:
        inner = self.fsdp // self.ep
        first = along == 0 and self.fsdp <= row.shape[0]
        shard = _StridedShard(0, split_factor=self.ep) if first else Shard(1 if along == 0 else 0)
        return _without_ones([(self.dp, Replicate()), (inner, shard), (self.ep, Shard(along))])


def _without_ones(axes: list[tuple[int, Any]]) -> Lies:
    kept = [(size, placement) for size, placement in axes if size > 1] or [(1, axes[1][1])]
    return tuple(size for size, _ in kept), tuple(placement for _, placement in kept)


def _experts(row: Row) -> int | None:
    """The axis of a stack of experts: a block axis of a matrix that isn't its fan-in, fan-out or window."""
    return row.block_axes[0] if row.block_axes and len(row.shape) > 2 and row.in_axes and row.out_axes else None


def _tp_axis(row: Row, weight: Row | None) -> int | None:
    if weight is not None:
        cut = _tp_axis(weight, None)
        return 0 if cut is not None and cut in weight.out_axes and row.shape == (weight.fan_out,) else None
    if len(row.shape) < 2:
        return None
    if row.role == "embedding":
        axes = row.in_axes
    elif row.role == "output":
        axes = row.out_axes
    elif row.role in ("input", "hidden"):
        layer = f".{row.name.removesuffix('.weight')}"
        axes = row.in_axes if any(layer.endswith(f".{name}") for name in FAN_IN) else row.out_axes
    else:
        return None
    return axes[0] if axes else None


def read_mesh(text: str) -> Mesh:
    """The mesh that a text says. NormcError for one that can't be."""
    sizes: dict[str, int] = {}
    for part in instance("the mesh", text, str, _FIX).replace(" ", "").split(","):
        name, equals, size = part.partition("=")
        names = ("dp", "fsdp") if name == "hsdp" else (name,)
        numbers = size.split("x") if name == "hsdp" else [size]
        known = name in ("dp", "fsdp", "tp", "ep", "hsdp") and bool(equals) and len(names) == len(numbers)
        if not known or not all(number.isascii() and number.isdigit() for number in numbers):
            raise NormcError(f"{part!r} is no axis of a mesh", _FIX)
        for own, number in zip(names, numbers, strict=True):
            if own in sizes:
                raise NormcError(f"the mesh {text!r} says {own} twice", _FIX)
            sizes[own] = int(number)
    mesh = Mesh(**sizes)
    if min(sizes.values()) < 1 or not 1 <= mesh.ranks <= MOST_RANKS:
        raise NormcError(f"the mesh {text!r} has {math.prod(sizes.values())} ranks", f"give 1 to {MOST_RANKS:,}")
    if mesh.fsdp % mesh.ep or (mesh.ep > 1 and mesh.tp > 1):
        raise NormcError(f"the mesh {text!r} has ep={mesh.ep}", "let ep divide fsdp, without tp beside it")
    return mesh


def biased(row: Row, rows: dict[str, Row]) -> Row | None:
    """The matrix that a bias belongs to, by its name."""
    return rows.get(f"{row.name.removesuffix('.bias')}.weight") if row.name.endswith(".bias") else None
