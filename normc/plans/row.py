"""A row of the plan: everything that was inferred about one parameter, and what it will get."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import sympy

Role = Literal[
    "input", "hidden", "output", "embedding", "position", "token", "gain", "bias",
    "router", "depthwise", "state", "scalar", "unused",
]  # fmt: skip
ROLES: tuple[str, ...] = get_args(Role)

AxisUse = Literal["in", "out", "block", "kernel", "index", "none"]
AXIS_USES: tuple[str, ...] = get_args(AxisUse)

# The only symbols that a scale's formula may hold: a block's fan-out, fan-in (without the kernel) and kernel size.
D_OUT, D_IN, KERNEL = sympy.symbols("d_out d_in k", positive=True)


class Block(NamedTuple):
    """One independent part of a parameter: the union of half-open `spans` along `axis`."""

    label: str
    axis: int
    spans: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Number of entries along the axis."""
        return sum(stop - start for start, stop in self.spans)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a pass decided something: `claim`, because `reason`, seen at `op` in `source`."""

    fact: str
    claim: str
    reason: str
    op: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """One place where the model uses a parameter: what it is there, and what each of its axes does."""

    role: Role
    op: str
    source: str
    module: str
    axes: tuple[AxisUse, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a unit-lr step: `formula` in d_out, d_in and k, and its number for each block."""

    formula: sympy.Expr
    per_block: tuple[float, ...]

    @property
    def value(self) -> float:
        """The number for the first block (the only one, unless the blocks differ in size)."""
        return self.per_block[0]


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter's line of the plan.

    `fan_in` and `fan_out` are of the whole tensor, fan-in times the kernel window; a block's own are `block_fans`.
    `rule` names the recipe's chain of stages that updates it ("lmo", "adamw"; "none" where nothing will).
    `sensitivity` is the gain from a change of the parameter's result to the model's output, and `magnitude` the RMS of
    what the parameter multiplies; None where an op on the way has no known gain.
    `target` is the radius in the operator norm, for a unit lr; `scale` is target times the norm's geometric factor.
    `fallback` is None, or the reason why the row got a safe elementwise update instead of an inferred one.
    `decay` multiplies the group's weight_decay for this row: 0 for a parameter whose weights aren't decayed.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    role: Role
    uses: tuple[Use, ...]
    fan_in: int
    fan_out: int
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    block_axes: tuple[int, ...]
    kernel_axes: tuple[int, ...]
    blocks: tuple[Block, ...]
    norm: str
    rule: str
    mass: float | None
    sensitivity: float | None
    scale: Scale
    target: float
    state_bytes: int
    evidence: tuple[Evidence, ...]
    fallback: str | None = None
    frozen: bool = False
    magnitude: float | None = None
    decay: float = 1.0

    def __setstate__(self, state: list[Any]) -> None:
        """Out of a pickle; of one that had fewer fields, the rest are as by default."""
        for index, item in enumerate(fields(self)):
            object.__setattr__(self, item.name, state[index] if index < len(state) else item.default)

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def kernel(self) -> int:
        """Entries of the convolution window: 1 for anything but a convolution."""
        return math.prod(self.shape[axis] for axis in self.kernel_axes)

    @property
    def block_fans(self) -> tuple[tuple[int, int], ...]:
        """(fan_out, fan_in) of each block, fan-in times the kernel; of the whole where there are no blocks."""
        if not self.blocks:
            return ((self.fan_out, self.fan_in),)
        fans = []
        for block in self.blocks:
            share = block.size / self.shape[block.axis]
            fan_out = round(self.fan_out * share) if block.axis in self.out_axes else self.fan_out
            fan_in = round(self.fan_in * share) if block.axis in self.in_axes else self.fan_in
            fans.append((fan_out, fan_in))
        return tuple(fans)

    def scaled(self, formula: sympy.Expr) -> Scale:
        """`formula` with the numbers of each of this row's blocks."""
        kernel = self.kernel
        return Scale(formula, tuple(_number(formula, fan_out, fan_in, kernel) for fan_out, fan_in in self.block_fans))


@functools.lru_cache(maxsize=4096)  # rows of one size share it, and sympy is slow
def _number(formula: sympy.Expr, fan_out: int, fan_in: int, kernel: int) -> float:
    numbers = {D_OUT: sympy.Integer(fan_out), D_IN: sympy.Integer(fan_in) / kernel, KERNEL: sympy.Integer(kernel)}
    if not formula.has(sympy.Float):  # exact: all at once comes to the same, and asks Max nothing of symbols
        return float(formula.xreplace(numbers))
    return float(formula.subs(numbers))
