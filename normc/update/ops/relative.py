"""Update ops that size a step by root mean squares: of itself (Adafactor's clipping, AdaMuon's alignment), and of the
weights.

They see whole tensors with the `view` (), else each of the matrices that the view sees (see `kronecker`). As in
`arithmetic`, their source is copied into every generated module: torch alone, and each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normc.update.ops.kronecker import put, see


def size_of(x: Tensor) -> Tensor:
    """The root mean square of every stacked tensor [N, ...], in a shape that x can be multiplied with."""
    flat = x.reshape(x.shape[0], -1)
    length: Tensor = torch.linalg.vector_norm(flat, dim=1).reshape(x.shape[:1] + (1,) * (x.dim() - 1))
    return length / math.sqrt(max(flat.shape[1], 1))


def clip_rms(d: Tensor, threshold: float, view: tuple[tuple[int, ...], ...] = ()) -> Tensor:
    """d / max(1, rms(d) / threshold). Shape and dtype of d."""
    x = see(d, view) if view else d
    x = x / (size_of(x) / threshold).clamp_min(1.0)
    return put(d, x, view) if view else x


def clip_rms_each(d: list[Tensor], threshold: float, view: tuple[tuple[int, ...], ...] = ()) -> list[Tensor]:
    """`clip_rms`, as new tensors."""
    return [clip_rms(x.unsqueeze(0), threshold, view)[0] for x in d]


def even(d: Tensor, view: tuple[tuple[int, ...], ...] = ()) -> Tensor:
    """d / rms(d); zero stays zero. Shape and dtype of d."""
    x = see(d, view) if view else d
    x = x / (size_of(x) + 1e-30)
    return put(d, x, view) if view else x


def even_each(d: list[Tensor], view: tuple[tuple[int, ...], ...] = ()) -> list[Tensor]:
    """`even`, as new tensors."""
    return [even(x.unsqueeze(0), view)[0] for x in d]


def relative(d: Tensor, w: Tensor, floor: float, view: tuple[tuple[int, ...], ...] = ()) -> Tensor:
    """d max(floor, rms(w)). Shape and dtype of d."""
    x, y = (see(d, view), see(w, view)) if view else (d, w)
    x = x * size_of(y).clamp_min(floor).to(x.dtype)
    return put(d, x, view) if view else x


def relative_each(
    d: list[Tensor], w: list[Tensor], floor: float, view: tuple[tuple[int, ...], ...] = ()
) -> list[Tensor]:
    """`relative`, as new tensors."""
    return [relative(x.unsqueeze(0), y.unsqueeze(0), floor, view)[0] for x, y in zip(d, w, strict=True)]


def lr_capped(d: Tensor, step: Tensor, lr: float) -> Tensor:
    """d min(lr, 1 / sqrt(t)) / lr, for the step t [N] that lr will multiply; zero where lr is. Shape and dtype of d."""
    times = step.reshape(step.shape + (1,) * (d.dim() - step.dim())).to(d)
    return d / (times.sqrt() * lr).clamp_min(1.0)


def lr_capped_each(d: list[Tensor], step: list[Tensor], lr: float) -> list[Tensor]:
    """`lr_capped`: the same tensors where lr is below all caps, else new ones."""
    cap = [max(1.0, lr * t**0.5) for t in torch.stack(step).tolist()]
    return d if max(cap) == 1.0 else list(torch._foreach_div(d, cap))
