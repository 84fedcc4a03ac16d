"""How a plain file sees a parameter as matrices and back: `fold` and `unfold` of a stack of one, which may do nothing.

As in `update.ops`, their source is copied into files: torch alone, and each other.
"""

from __future__ import annotations

from torch import Tensor


def as_matrices(x: Tensor, view: tuple[tuple[int, ...], ...]) -> Tensor:
    """[1, *parameter] as [blocks, out, in]: split, transposed, merged."""
    if not view:
        return x
    sizes, order, shape = view
    return x.reshape(sizes).permute(order).reshape(shape)


def as_parameter(x: Tensor, view: tuple[tuple[int, ...], ...], shape: tuple[int, ...]) -> Tensor:
    """The inverse of `as_matrices`."""
    if not view:
        return x
    sizes, order, _ = view
    split = x.reshape([sizes[axis] for axis in order])
    return split.movedim(tuple(range(len(order))), order).reshape(shape)
