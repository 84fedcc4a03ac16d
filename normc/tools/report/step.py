"""How large a step of lr 1 is: its RMS, and its largest singular value, from the definition of the row's norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from normc.plans.geometry import Norm, norms
from normc.plans.row import Row


@dataclass(frozen=True, slots=True)
class Step:
    """One block's step at lr 1, where every direction has full rank: its RMS, and bounds of its largest singular value.

    The bounds are equal where the norm fixes the value; None where it isn't known which axes make a matrix.
    """

    rms: float
    spectral: tuple[float, float] | None


def steps(row: Row) -> tuple[Step, ...]:
    """One step a block; none for a row that isn't updated, or by a rule whose step has no fixed size."""
    if row.rule not in ("lmo", "adamw") or row.numel == 0:
        return ()
    norm = norms[row.norm] if row.rule == "lmo" else None
    lost = len(row.shape) > 1 and not row.in_axes and not row.out_axes
    found = []
    for (fan_out, fan_in), scale in zip(row.block_fans, row.scale.per_block, strict=True):
        length = scale * _length(norm, fan_out, fan_in, row.kernel)
        short = min(fan_out, fan_in)
        low = scale if norm is not None and norm.shape == "matrix" else length / math.sqrt(short)
        high = scale if norm is not None and norm.shape == "matrix" else length
        found.append(Step(length / math.sqrt(fan_out * fan_in), None if lost else (low, high)))
    return tuple(found)


def rms_of(row: Row, norm: Norm | None) -> float:
    """The RMS of a whole row's step at lr 1, that norm's unit step times the scales; None for entries of one."""
    shares = [block.size for block in row.blocks] or [1]
    scales = row.scale.per_block * (len(shares) if len(row.scale.per_block) == 1 else 1)
    squares = [
        (scale * _length(norm, fan_out, fan_in, row.kernel)) ** 2 / (fan_out * fan_in)
        for (fan_out, fan_in), scale in zip(row.block_fans, scales, strict=True)
    ]
    return math.sqrt(sum(map(math.prod, zip(shares, squares, strict=True))) / sum(shares))


def _length(norm: Norm | None, fan_out: int, fan_in: int, kernel: int) -> float:
    """The 2-norm of all entries of a unit step; AdamW's (None) has entries of about one."""
    kind = norm.shape if norm is not None else "entries"
    if norm is not None and kind == "whole":
        return _whole(norm, fan_out * fan_in)
    counted = {"matrix": min(fan_out, fan_in), "columns": fan_in, "rows": fan_out, "entries": fan_out * fan_in}
    counted["slices"] = min(fan_out * kernel, fan_in)
    return math.sqrt(counted[kind])


def _whole(norm: Norm, numel: int) -> float:
    """A norm of all entries together is a power of their number times their 2-norm: read off two small tensors."""
    one, four = (float(torch.linalg.vector_norm(norm.lmo(torch.ones(1, 1, n, dtype=torch.float64)))) for n in (1, 4))
    return one * math.pow(four / one, math.log(numel, 4))
