"""What an op does with every factor of a parameter's axes, where a weight made of some meets an activation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from normc.model.ops.value import Axis, Value, dim_size
from normc.plans.row import AxisUse


class Part(NamedTuple):
    """A factor of a parameter's axis and what the op does with it."""

    axis: int
    use: AxisUse
    size: int
    stride: int
    start: int


def parts_of(
    weight: Value,
    uses: Sequence[AxisUse],
    name: str,
    product: bool,
    pair: AxisUse = "block",
    chosen: AxisUse = "block",
) -> tuple[Part, ...]:
    """Every factor's use. `chosen`: what an axis is of which one entry was selected.

    `pair`: what the axis of real and imaginary parts is.
    """
    parts = []
    picked = _of_picked(weight, uses, name) if product else "index"
    for dim, use in zip(weight.dims, uses, strict=False):
        for factor in dim:
            actual: AxisUse = picked if factor.picked == "index" else factor.picked or use
            for run in factor.runs if actual != "none" else ():
                if run.axis.parameter == name:
                    start = run.start + weight.offsets.get(run.axis, 0)
                    size, stride = (run.size, run.stride) if not factor.picked or actual == "index" else (1, 0)
                    parts.append(Part(run.axis.number, actual, size, stride, start))
    left = {axis for axis in weight.offsets if axis.parameter == name} - {Axis(name, part.axis) for part in parts}
    parts += [Part(axis.number, chosen, 1, 0, weight.offsets[axis]) for axis in sorted(left)]
    along = {part.axis for part in parts}
    mixing = _mixing(weight, uses)
    inner = [i._replace(use="mixed") if i.bond in mixing else i for i in weight.inner if i.axis.parameter == name]
    idle = "index" if product else "block"
    inner = [i for i in inner if i.use != idle and not (i.use == "mixed" and i.axis.number in along)]
    turned = {"in": "out", "out": "in"} if _turned(weight, uses) else {}
    meanings: dict[str, AxisUse] = {
        "in": "in", "out": "out", "block": "block", "mixed": "block", "pair": pair, "index": "index"
    }  # fmt: skip
    parts += [Part(i.axis.number, meanings[turned.get(i.use, i.use)], i.size, i.stride, 0) for i in inner]
    return tuple(parts)


def _mixing(weight: Value, uses: Sequence[AxisUse]) -> set[str]:
    """Products in which one side holds but coefficients, for each of several matrices that the other side holds."""
    bonds: dict[str, set[str]] = {}
    for inner in weight.inner:
        if inner.bond:
            bonds.setdefault(inner.bond, set()).add(inner.axis.parameter)
    return {bond for bond, names in bonds.items() if len(names) > 1 and _mixes(weight, uses, bond, names)}


def _mixes(weight: Value, uses: Sequence[AxisUse], bond: str, names: set[str]) -> bool:
    sides: dict[str, set[str]] = {name: set() for name in names}
    for inner in weight.inner:
        if inner.axis.parameter in names and inner.bond != bond:
            sides[inner.axis.parameter].add(inner.use)
    for dim, use in zip(weight.dims, uses, strict=False):
        for factor in dim:
            for name in {run.axis.parameter for run in factor.runs if not factor.picked} & names:
                sides[name].add("in" if use == "kernel" else use)
    kinds = [found & {"in", "out"} for found in sides.values()]
    return set() in kinds and all(not found or len(found) == 2 for found in kinds)


def _of_picked(weight: Value, uses: Sequence[AxisUse], name: str) -> AxisUse:
    """What an axis is in a product of whose entries constant indices have picked some: blocks, if the rest is a matrix.

    "none" if there is no rest: single numbers make the matrix.
    """
    rest = {use for dim, use in zip(weight.dims, uses, strict=False) for factor in dim if not factor.picked
            for run in factor.runs if run.axis.parameter == name}  # fmt: skip
    return "block" if "out" in rest and rest & {"in", "kernel"} else "index" if rest else "none"


def _turned(weight: Value, uses: Sequence[AxisUse]) -> bool:
    """Whether a product of weights is applied from the right, as x (A B): its first factor is the one that x meets."""
    firsts = {inner.axis.parameter for inner in weight.inner if inner.use == "in"}
    firsts -= {inner.axis.parameter for inner in weight.inner if inner.use == "out"}
    sides = {side: {run.axis.parameter for dim, use in zip(weight.dims, uses, strict=False) if use == side
                    for factor in dim for run in factor.runs} for side in ("in", "out")}  # fmt: skip
    return bool(firsts & sides["in"] - sides["out"])


def _scales(weight: Value, uses: Sequence[AxisUse], name: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter of a matrix runs along its fan-out alone, or along its fan-in alone: a gain inside of it.

    So does a vector inside of a product of weights, or on a diagonal. Not so if the matrix has no other side, or if it
    isn't known where all of the parameter's axes have gone.
    """
    own = {axis.number for axis in weight.axes() - set(weight.spread) if axis.parameter == name}
    if len(shape) == 1 and not weight.lost:
        parts = [part for part in parts_of(weight, uses, name, True) if part.use in ("in", "out")]
        if len({part.use for part in parts}) == 2 and len({part.stride for part in parts}) == 1:
            return True
        if parts and any(inner.axis.parameter == name for inner in weight.inner):
            return True
    inside = any(inner.axis.parameter == name and inner.use in ("in", "out") for inner in weight.inner)
    if inside or weight.lost or any(size > 1 and axis not in own for axis, size in enumerate(shape)):
        return False
    for side in (("in", "kernel"), ("out",)):
        dims = [dim for dim, use in zip(weight.dims, uses, strict=False) if use in side]
        runs = [run for dim in dims for factor in dim for run in factor.runs if run.axis.parameter == name]
        if math.prod(dim_size(dim) for dim in dims) > 1 and not runs:
            return True
    return False


def _is_entry(weight: Value, name: str, shape: tuple[int, ...]) -> bool:
    """Whether selects have left one entry of a parameter, which multiplies what other parameters make."""
    along = weight.axes()
    if not along or any(axis.parameter == name for axis in along):
        return False
    summed = any(inner.axis.parameter == name and inner.use != "block" for inner in weight.inner)
    fixed = {axis.number for axis in weight.offsets if axis.parameter == name}
    return bool(fixed) and not summed and {i for i, size in enumerate(shape) if size > 1} <= fixed


def gain_parts(
    weight: Value, uses: Sequence[AxisUse], name: str, shape: tuple[int, ...], parts: tuple[Part, ...]
) -> tuple[Part, ...] | None:
    """The parts of a gain on one side of a matrix, which lie along features, or where a single entry lies.

    None if the parameter is no gain inside of the matrix.
    """
    if _is_entry(weight, name, shape):
        return tuple(part for part in parts if part.size == 1)
    if not _scales(weight, uses, name, shape):
        return None
    return tuple(part._replace(use="out") if part.use in ("in", "kernel") else part for part in parts)


def with_picked(weight: Value, uses: Sequence[AxisUse]) -> tuple[Sequence[AxisUse], bool]:
    """How a product uses a table of which constant indices have picked entries, and whether it looks up rows.

    For pairs of places a table holds vectors, whatever those are multiplied with, or matrices. Where all dimensions are
    picked, single numbers make a matrix, and each is by itself.
    """
    picked = [any(factor.picked == "index" for factor in dim) for dim in weight.dims]
    left = {use for use, dim, there in zip(uses, weight.dims, picked, strict=True) if dim and not there}
    if sum(picked) < 2 or not left or {"in", "out"} <= left:
        return uses, False
    return ["index" if there else "out" for there in picked], True
