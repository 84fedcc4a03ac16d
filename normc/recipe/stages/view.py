"""How a row's tensor is seen as matrices [blocks, out, in], and whether its blocks matter to a norm."""

from __future__ import annotations

from dataclasses import dataclass

from normc.errors import NormcError
from normc.plans.geometry import Norm
from normc.plans.row import Block, Row


@dataclass(frozen=True, slots=True)
class Fold:
    """Arguments of the update op `fold`."""

    sizes: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int]

    @property
    def plain(self) -> bool:
        """Whether a stack is one of matrices already."""
        return self.order == (0, 1) and self.shape == (1, *self.sizes)


@dataclass(frozen=True, slots=True)
class Comb:
    """Equal blocks that take turns along an axis: `turns` times, each of `blocks` blocks has `width` entries."""

    axis: int
    turns: int
    blocks: int
    width: int


def blocks_matter(row: Row, norm: Norm) -> bool:
    """Whether updating a row's blocks apart differs from updating it whole."""
    if not row.blocks:
        return False
    if len(set(row.scale.per_block)) > 1:
        return True
    along_rows = row.blocks[0].axis in row.out_axes
    apart = {"entries": True, "rows": along_rows, "columns": not along_rows}
    return not apart.get(norm.shape, False)


def check_blocks(row: Row) -> None:
    """Raise NormcError unless the blocks lie along one axis and fill it without overlap."""
    axes = {block.axis for block in row.blocks}
    if len(axes) > 1:
        raise NormcError(
            f"{row.name} has blocks along several axes ({', '.join(map(str, sorted(axes)))})",
            "give blocks of one axis; independent axes belong into block_axes",
        )
    for axis in axes:
        end = 0
        for start, stop in sorted(span for block in row.blocks for span in block.spans):
            if start != end or stop <= start:
                raise NormcError(f"the blocks of {row.name} overlap or leave a gap at {start} of axis {axis}")
            end = stop
        if end != row.shape[axis]:
            raise NormcError(f"the blocks of {row.name} end at {end}, its axis {axis} at {row.shape[axis]}")


def comb_of(blocks: tuple[Block, ...]) -> Comb | None:
    """The blocks as a comb, if they are equal and take turns in order."""
    turns, number = len(blocks[0].spans), len(blocks)
    width = blocks[0].size // turns
    for index, block in enumerate(blocks):
        starts = [(turn * number + index) * width for turn in range(turns)]
        if block.spans != tuple((start, start + width) for start in starts):
            return None
    return Comb(blocks[0].axis, turns, number, width)


def fold_of(row: Row, shape: tuple[int, ...], comb: Comb | None = None, slices: bool = False) -> Fold:
    """The fold of a tensor of `shape` that has the axes of `row` (the row's own tensor, or one of its blocks).

    An axis that is neither fan-out nor a block counts as fan-in: the kernel (unless each of its places is a matrix of
    its own, with `slices`), and an embedding's index.
    """
    apart = (*row.block_axes, *row.kernel_axes) if slices else row.block_axes
    sizes: list[int] = []
    blocks: list[int] = []
    outs: list[int] = []
    ins: list[int] = []
    for axis, size in enumerate(shape):
        kind = blocks if axis in apart else outs if axis in row.out_axes else ins
        first = len(sizes)
        if comb is not None and axis == comb.axis:
            sizes += [comb.turns, comb.blocks, comb.width]
            kind += [first, first + 2]
            blocks.append(first + 1)
        else:
            sizes.append(size)
            kind.append(first)
    numbers = []
    for kind in (blocks, outs, ins):
        number = 1
        for index in kind:
            number *= sizes[index]
        numbers.append(number)
    return Fold(tuple(sizes), (*blocks, *outs, *ins), (numbers[0], numbers[1], numbers[2]))
