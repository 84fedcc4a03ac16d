"""Update ops that see matrices: how a stack of parameters becomes a stack of matrices, and Newton-Schulz on it.

As in `arithmetic`, their source is copied into every generated module: torch alone, and each other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def stack(tensors: list[Tensor]) -> Tensor:
    """Tensors of one shape as [N, *shape]; a view, not a copy, where there is only one."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors)


def fold(x: Tensor, sizes: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, int, int]) -> Tensor:
    """A stack [N, *parameter] as matrices [N * blocks, out, in].

    The parameter's axes are split into `sizes`, put into `order` (blocks first, then fan-out, then fan-in), and merged
    to `shape` (blocks, out, in).
    """
    blocks, rows, columns = shape
    split = x.reshape(x.shape[0], *sizes).permute(0, *[1 + axis for axis in order])
    return split.reshape(x.shape[0] * blocks, rows, columns)


def unfold(
    x: Tensor, sizes: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, int, int], parameter: tuple[int, ...]
) -> Tensor:
    """The inverse of `fold`: matrices [N * blocks, out, in] as a stack [N, *parameter]."""
    number = x.shape[0] // max(shape[0], 1)
    split = x.reshape(number, *[sizes[axis] for axis in order])
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return split.permute(0, *[1 + axis for axis in inverse]).reshape(number, *parameter)


def take(x: Tensor, axis: int, spans: tuple[tuple[int, int], ...]) -> Tensor:
    """The half-open `spans` of each stacked parameter's `axis`, joined: [N, ..., total, ...]."""
    parts = [x.narrow(axis + 1, start, stop - start) for start, stop in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis + 1)


def place(xs: list[Tensor], axis: int, spans: tuple[tuple[tuple[int, int], ...], ...]) -> Tensor:
    """The inverse of `take` for all blocks at once: `xs[i]` goes to `spans[i]`; together they fill the axis."""
    parts = []
    for x, own in zip(xs, spans, strict=True):
        offset = 0
        for start, stop in own:
            parts.append((start, x.narrow(axis + 1, offset, stop - start)))
            offset += stop - start
    return torch.cat([part for _, part in sorted(parts, key=lambda part: part[0])], axis + 1)


def flip(x: Tensor) -> Tensor:
    """Matrices turned over: [B, out, in] as [B, in, out], a view."""
    return x.mT


def join(xs: list[Tensor]) -> Tensor:
    """Stacks of matrices of one size as one stack; where all but one are empty, that one itself."""
    filled = [x for x in xs if x.shape[0] > 0]
    return filled[0] if len(filled) == 1 else torch.cat(xs)


def part(x: Tensor, joined: list[Tensor], index: int) -> Tensor:
    """What became of joined[index] in a stack that was made of a `join`: a view."""
    return x.narrow(0, sum(own.shape[0] for own in joined[:index]), joined[index].shape[0])


def unit(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x over its 2-norm along `dims`; zero stays zero. Shape and dtype of x, computed in at least float32.

    The largest entry is divided out first, so that the result is the same to the bit when x is scaled by a power of
    two, and no square under- or overflows.
    """
    if x.numel() == 0:
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    peak = wide.abs().amax(dims, keepdim=True)
    level = wide / torch.where(peak > 0, peak, 1.0)
    length = level.square().sum(dims, keepdim=True).sqrt()
    return (level / torch.where(length > 0, length, 1.0)).to(x.dtype)


def length(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The 2-norm of x along `dims`, which are dropped. At least float32; no square under- or overflows; empty has 0."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.numel() == 0:
        return wide.sum(dims)
    peak = wide.abs().amax(dims, keepdim=True)
    level = wide / torch.where(peak > 0, peak, 1.0)
    return level.square().sum(dims).sqrt() * peak.amax(dims)


def greatest(x: Tensor) -> Tensor:
    """The largest entry along the last axis of numbers that are not negative: 0 where there is none."""
    return x.amax(-1) if x.shape[-1] > 0 else x.sum(-1)


def polar(x: Tensor, polynomials: tuple[tuple[float, float, float], ...], dtype: torch.dtype | None = None) -> Tensor:
    """Newton-Schulz: matrices [B, out, in] with all singular values about one. Shape and dtype of x.

    One odd polynomial a s + b s^3 + c s^5 of the singular values a step, starting from Frobenius norm one, in `dtype`
    (default: that of x). Two products for a cubic (c = 0), three for a quintic. Zero stays zero.
    """
    if x.numel() == 0:
        return x
    y = unit(x, (-2, -1)).to(dtype or x.dtype)
    tall = x.shape[-2] > x.shape[-1]
    y = y.mT if tall else y
    for a, b, c in polynomials:
        gram = y @ y.mT
        if c == 0.0:
            y = torch.baddbmm(y, gram, y, beta=a, alpha=b)
        else:
            gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            y = torch.baddbmm(y, gram, y, beta=a)
    return (y.mT if tall else y).to(x.dtype)
