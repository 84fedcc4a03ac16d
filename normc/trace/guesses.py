"""Made-up answers where a forward asks about data that a trace doesn't have. Each is marked on its node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from normc.trace.values import Structure

aten = torch.ops.aten

QUESTIONS: frozenset[torch._ops.OpOverload] = frozenset(
    {aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default, aten.equal.default}
)


@dataclass(frozen=True, slots=True)
class Guess:
    """What a number that isn't known is taken to be: `truth` where a yes or no is asked, else one or nought."""

    truth: bool

    def answer(self, func: torch._ops.OpOverload, operand: Tensor) -> bool | int | float:
        """The answer to one of QUESTIONS about `operand`."""
        if func in (aten.is_nonzero.default, aten.equal.default) or operand.dtype == torch.bool:
            return self.truth
        return float(self.truth) if operand.dtype.is_floating_point else int(self.truth)


def _rows(tensor: Tensor) -> int:
    return max(1, tensor.shape[0]) if tensor.dim() else 1


def _indices(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int64, device=like.device)


def _hit_once(condition: Tensor) -> list[Tensor]:
    return [_indices(condition, _rows(condition)) for _ in range(max(1, condition.dim()))]


def _distinct(tensor: Tensor, *_: Structure, **__: Structure) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(tensor.flatten()), _indices(tensor, tensor.numel()), _indices(tensor, tensor.numel())


def _counts(tensor: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    return _indices(tensor, max(1, minlength))


def _repeated(tensor: Tensor, repeats: Tensor | None = None, dim: int | None = None, **_: Structure) -> Tensor:
    if repeats is None:
        return _indices(tensor, tensor.numel())
    return torch.empty_like(tensor if dim is not None else tensor.flatten())


def _selected(tensor: Tensor, mask: Tensor) -> Tensor:
    return torch.empty((_rows(mask),), dtype=tensor.dtype, device=tensor.device)


def _indexed(tensor: Tensor, indices: list[Tensor | None]) -> Tensor:
    """x[mask], x[:, mask] with one boolean mask: every row of the mask is hit once."""
    at, mask = next((at, index) for at, index in enumerate(indices) if index is not None)
    shape = (*tensor.shape[:at], _rows(mask), *tensor.shape[at + mask.dim() :])
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)


# Ops whose result's shape depends on data, by name: the shape if every row along the first axis is hit once.
SHAPES: dict[str, Callable[..., Structure]] = {
    "nonzero": lambda tensor: _indices(tensor, _rows(tensor), tensor.dim()),
    "nonzero_numpy": _hit_once,
    "where": _hit_once,
    "argwhere": lambda tensor: _indices(tensor, _rows(tensor), tensor.dim()),
    "masked_select": _selected,
    "_unique": _distinct,
    "_unique2": _distinct,
    "unique_dim": _distinct,
    "unique_consecutive": _distinct,
    "bincount": _counts,
    "repeat_interleave": _repeated,
    "index": _indexed,
}


# Of those, the ops whose shape is decided by one operand (a mask, counts) alone: its place.
DECIDED_BY: dict[str, int] = {"index": 1, "masked_select": 1, "repeat_interleave": 1}


def grouped_mm(
    left: Tensor,
    right: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The shape of aten._grouped_mm, whose own fake kernel takes nothing but bfloat16 in aligned memory. No guess."""
    if left.dim() == 3 and right.dim() == 3:
        shape: tuple[int, ...] = (left.shape[0], left.shape[1], right.shape[2])
    elif left.dim() == 2 and right.dim() == 2:
        shape = (offs.shape[0] if offs is not None else 1, left.shape[0], right.shape[1])
    else:
        shape = (left.shape[-2], right.shape[-1])
    return torch.empty(shape, dtype=out_dtype or left.dtype, device=left.device)
