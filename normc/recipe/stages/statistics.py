"""Statistics of a gradient that are smaller than it: means of squares over rows, columns or whole matrices.

Matrices are those of the row's blocks; or a tensor's last two axes as they are stored, for what others do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import fx

from normc.plans.row import Row
from normc.recipe.stages.build import Builder
from normc.recipe.stages.kronecker import Part, parts_of
from normc.recipe.stages.precondition import TINY, Entries, Memory, Sized, Statistic, View, floor_of
from normc.recipe.stages.view import Fold
from normc.update.ops import precondition

Mean = Literal["row", "column", "block"]
_DIMS: dict[Mean, tuple[int, ...]] = {"row": (-1,), "column": (-2,), "block": (-2, -1)}


def stored(row: Row) -> Part:
    """A tensor's last two axes as they are stored, whatever the model does with them; one row for less than two."""
    shape = (1, 1, *row.shape)
    sides = (math.prod(shape[:-2]), shape[-2], shape[-1])
    return Part(Fold(row.shape, tuple(range(len(row.shape))), sides))


def seen(row: Row, apart: bool) -> tuple[Part, ...]:
    """A row's blocks as matrices, or the tensor as it is stored."""
    return parts_of(row) if apart else (stored(row),)


def wholes(row: Row, apart: bool) -> tuple[View, ...]:
    """Views of what has a size of its own: each matrix, or () for a tensor that is no more than one."""
    parts = seen(row, apart)
    return tuple(part.view for part in parts) if apart and (len(parts) > 1 or parts[0].fold.shape[0] > 1) else ((),)


def average(
    build: Builder, gradient: fx.Node, memory: Memory, part: Part, mean: Mean, name: str = "exp_avg_sq"
) -> fx.Node:
    """The running mean of squares of a part's rows, columns or matrices; a state [B, out or 1, in or 1]."""
    matrices, rows, columns = part.fold.shape
    size = (matrices, rows if mean == "row" else 1, columns if mean == "column" else 1)
    name += part.suffix
    state = build.state(name, "x".join(map(str, size)))
    return build.keep(name, memory.update(build, state, gradient, dims=_DIMS[mean], view=part.view))


@dataclass(frozen=True, slots=True)
class Means(Statistic):
    """One average a row of each block's matrix [out, in], a column, or a block."""

    of: Mean = "block"

    def emit(self, build: Builder, gradient: fx.Node, memory: Memory) -> list[Sized]:
        """v of the mean of g^2."""
        parts = parts_of(build.row)
        return [Sized(average(build, gradient, memory, part, self.of), part.view) for part in parts]


@dataclass(frozen=True, slots=True)
class Factored(Statistic):
    """Averages of rows and of columns, whose outer product stands for those of entries; vectors have all entries.

    apart   each block's matrix by itself, else the tensor's last two axes as they are stored.
    floor   the least mean of averages to divide by; None for the dtype's precision.
    """

    apart: bool = True
    floor: float | None = TINY

    def emit(self, build: Builder, gradient: fx.Node, memory: Memory) -> list[Sized]:
        """v of r c / mean(r)."""
        parts = seen(build.row, self.apart)
        if all(min(part.fold.shape[1:]) <= 1 for part in parts):
            return Entries().emit(build, gradient, memory)
        found = []
        for part in parts:
            rows = average(build, gradient, memory, part, "row", "exp_avg_sq_row")
            columns = average(build, gradient, memory, part, "column", "exp_avg_sq_column")
            floor = floor_of(build, self.floor)
            found.append(Sized(build.call("o", precondition.rank_one, rows, columns, floor=floor), part.view))
        return found


@dataclass(frozen=True, slots=True)
class FactoredOrMean(Factored):
    """`Factored`, but all entries of a vector have one average."""

    def emit(self, build: Builder, gradient: fx.Node, memory: Memory) -> list[Sized]:
        """v of r c / mean(r)."""
        parts = seen(build.row, self.apart)
        if all(min(part.fold.shape[1:]) <= 1 for part in parts):
            return [Sized(average(build, gradient, memory, part, "block"), part.view) for part in parts]
        return Factored.emit(self, build, gradient, memory)
