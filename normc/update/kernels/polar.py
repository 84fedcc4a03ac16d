"""Newton-Schulz of stacks of matrices by cheaper algebra: symmetric products, and the Gram form, on X X^T.

The Gram form: with R = X X^T, each step multiplies X by a polynomial of R, and all of these commute. So R and the
product Q of the polynomials are iterated, n x n matrices whatever X's other side, and X is multiplied by Q at the end.
Rounding of R is rounding of squares of singular values: hence 16 bits mean fp16, and X and R are made anew once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normc.update.kernels.chunks import chunks
from normc.update.kernels.language import runs_kernels
from normc.update.kernels.normalise import normalise, scaled, starting_norm
from normc.update.kernels.products import folds, linear, longer, product, sandwich
from normc.update.kernels.small import Polynomials

WORKSPACE = 2**28
RESTART_AFTER = 2
LARGE = 3 * 2**28  # bytes of a matrix, a product of it and four squares, from which on products are made in place
COLUMNS = 512  # that a product in place takes at once, and four times as many on a GPU


def polar_standard(
    x: Tensor,
    polynomials: Polynomials,
    *,
    dtype: torch.dtype | None = None,
    result: torch.dtype | None = None,
    workspace: int = WORKSPACE,
    unit: bool = False,
    without: tuple[str, ...] = (),
) -> Tensor:
    """Newton-Schulz of [batch, rows, columns], any strides: every singular value pushed to about one.

    Starts from Frobenius norm one, computes in `dtype`, by default that of x, and returns `result`, by default the same
    as x, laid out as x is. The same to the bit when x is scaled by a power of two; zero stays zero. Intermediate
    stacks stay under `workspace` bytes, or those of one matrix. `unit` says that each x is in `dtype` and of its
    `starting_norm`, or zero, and that its memory may be that of the result. `without` may name "symmetric" and "fold".
    """
    dtype = dtype or x.dtype
    out = _result(x, result, unit and len(polynomials) > 1)
    flat, goal = wide(x), wide(out)
    batch, n, m = flat.shape
    if x.numel() == 0:
        return out
    each = (2 * n * n + 2 * n * m) * dtype.itemsize + (0 if unit else 8 * n * m)
    for start, stop in chunks([batch], [each], workspace):
        y, factor = normalised(flat[start:stop], dtype, unit=unit)
        gram = torch.empty(stop - start, y.shape[1], y.shape[1], dtype=dtype, device=x.device)
        space = torch.empty_like(gram)
        folded = folds(n, dtype, x.device, without)
        for left, (a, b, c) in zip(range(len(polynomials))[::-1], polynomials, strict=True):
            diagonal = a * factor if folded else 0.0
            if c == 0.0:
                whole = product(y, y.mT, space, alpha=b * factor**3, gamma=diagonal, without=without)
            else:
                product(y, y.mT, gram, alpha=factor * factor, without=without)
                scales = {"alpha": c * factor, "beta": b * factor, "gamma": diagonal}
                whole = product(gram, gram, space, add=gram, **scales, without=without)
            if not folded:
                y = torch.baddbmm(y, whole, y, beta=a * factor)
            elif left > 0:
                y = times(whole, y)
            else:
                finish(whole, y, goal[start:stop])
            factor = 1.0
        if not (folded and polynomials):
            goal[start:stop] = y[:, :n, :m] * factor if factor != 1.0 else y[:, :n, :m]
    return out


def polar_gram(
    x: Tensor,
    polynomials: Polynomials,
    *,
    restart_after: int | None = RESTART_AFTER,
    dtype: torch.dtype | None = None,
    result: torch.dtype | None = None,
    workspace: int = WORKSPACE,
    unit: bool = False,
    without: tuple[str, ...] = (),
) -> Tensor:
    """As `polar_standard`, in the Gram form: X and R are made anew once, after the step `restart_after`."""
    kept = {"restart_after": restart_after, "dtype": dtype, "result": result, "workspace": workspace}
    return polar_many([x], polynomials, **kept, unit=unit, without=without)[0]  # type: ignore[arg-type]  # values of several types


def polar_many(
    xs: Sequence[Tensor],
    polynomials: Polynomials,
    *,
    restart_after: int | None = RESTART_AFTER,
    dtype: torch.dtype | None = None,
    result: torch.dtype | None = None,
    workspace: int = WORKSPACE,
    unit: bool = False,
    without: tuple[str, ...] = (),
) -> list[Tensor]:
    """`polar_gram` of stacks of several shapes. Those of one shorter side and dtype share all n x n products.

    `restart_after` None never starts anew, for float32 and float64 alone.
    """
    if not polynomials:
        return [polar_standard(x, (), dtype=dtype, result=result, workspace=workspace, unit=unit) for x in xs]
    cut = len(polynomials) if restart_after is None else restart_after
    outs = [_result(x, result, unit and len(polynomials) > cut) for x in xs]
    groups: dict[object, list[int]] = {}
    for index, x in enumerate(xs):
        if x.numel() > 0:
            groups.setdefault((min(x.shape[-2:]), dtype or x.dtype), []).append(index)
    for members in groups.values():
        _group(
            [wide(xs[index]) for index in members],
            [wide(outs[index]) for index in members],
            polynomials,
            restart_after,
            dtype or xs[members[0]].dtype,
            workspace,
            unit,
            without,
        )
    return outs


@dataclass(frozen=True, slots=True)
class Piece:
    """Matrices of one shape in a chunk: what they are, where they go, and their places among its n x n matrices."""

    x: Tensor
    goal: Tensor
    span: slice


def _group(
    flats: list[Tensor],
    goals: list[Tensor],
    polynomials: Polynomials,
    restart_after: int | None,
    dtype: torch.dtype,
    workspace: int,
    unit: bool,
    without: tuple[str, ...],
) -> None:
    if dtype.itemsize <= 2 and (restart_after is None or not 0 < restart_after <= 3):
        raise ValueError("the Gram form in 16 bits needs a restart after one to three steps")
    cut = len(polynomials) if restart_after is None else restart_after
    segments = [part for part in (polynomials[:cut], polynomials[cut:]) if part]
    n = flats[0].shape[1]
    each = dtype.itemsize if unit else 2 * dtype.itemsize + 8
    sizes = [4 * n * n * dtype.itemsize + n * x.shape[2] * each for x in flats]
    ends = [sum(x.shape[0] for x in flats[: place + 1]) for place in range(len(flats))]
    for start, stop in chunks([x.shape[0] for x in flats], sizes, workspace):
        pieces = []
        for flat, goal, end in zip(flats, goals, ends, strict=True):
            before = end - flat.shape[0]
            low, high = max(start, before), min(stop, end)
            if low < high:
                own = slice(low - before, high - before)
                pieces.append(Piece(flat[own], goal[own], slice(low - start, high - start)))
        _chunk(pieces, segments, dtype, unit, without)


def _chunk(
    pieces: list[Piece], segments: list[Polynomials], dtype: torch.dtype, unit: bool, without: tuple[str, ...]
) -> None:
    wider = dtype.itemsize > 2 and all(p.goal.dtype == dtype and p.goal.device.type != "cuda" for p in pieces)
    made = [normalised(piece.x, dtype, piece.goal if wider else None, unit) for piece in pieces]
    ys, factor = [y for y, _ in made], made[0][1]
    kept = wider or all(_large(y) and y.data_ptr() == p.goal.data_ptr() for y, p in zip(ys, pieces, strict=True))
    side = ys[0].shape[1]
    space = torch.empty(4, pieces[-1].span.stop, side, side, dtype=dtype, device=ys[0].device)
    for left, segment in zip(range(len(segments))[::-1], segments, strict=True):
        for piece, y in zip(pieces, ys, strict=True):
            product(y, y.mT, space[0][piece.span], alpha=factor * factor, without=without)
        whole = chain(space, segment, factor, without)
        if kept:
            for piece, y in zip(pieces, ys, strict=True):
                for part in y.split(4 * COLUMNS if y.device.type == "cuda" else COLUMNS, 2):
                    part.copy_(times(whole[piece.span], part))
        elif left == 0:
            for piece, y in zip(pieces, ys, strict=True):
                finish(whole[piece.span], y, piece.goal)
        else:
            ys = [times(whole[piece.span], y) for piece, y in zip(pieces, ys, strict=True)]
        factor = 1.0


def chain(space: Tensor, steps: Polynomials, factor: float = 1.0, without: tuple[str, ...] = ()) -> Tensor:
    """`factor` times the product Q of the polynomials of `steps`, from Gram matrices R; one of `space`'s other stacks.

    `space` is [4, batch, n, n], and R its first stack. a is part of each polynomial's diagonal, Q (a I + b R + c R^2);
    without "fold" it is added, a Q + Q (b R + c R^2).
    """
    gram, *spare = space.unbind()
    folded = "fold" not in without
    current = whole = _polynomial(gram, steps[0], spare.pop(), without)
    if not folded:
        whole = linear(current, spare.pop(), 1.0, steps[0][0])
    for place, step in enumerate(steps[1:], 2):
        half = spare.pop()
        sandwich(gram, current, half, 0.0 if folded else steps[place - 2][0], without)
        spare += [half] if current is whole else [half, current]
        current = _polynomial(gram, step, spare.pop(), without)
        scale = factor if place == len(steps) else 1.0
        out = spare.pop()
        spare.append(whole)
        whole = longer(whole, current, out, scale, 0.0 if folded else step[0], without)
    return whole.mul_(factor) if len(steps) == 1 and factor != 1.0 else whole


def _polynomial(gram: Tensor, step: tuple[float, float, float], out: Tensor, without: tuple[str, ...]) -> Tensor:
    a, b, c = step
    a = a if "fold" not in without else 0.0
    if c == 0.0:
        return linear(gram, out, b, a)
    return product(gram, gram, out, add=gram, alpha=c, beta=b, gamma=a, without=without)


def _result(x: Tensor, dtype: torch.dtype | None, over: bool) -> Tensor:
    """Memory for a result: x's own, if it may be written over."""
    return x if over and dtype in (None, x.dtype) else torch.empty_like(x, dtype=dtype or x.dtype)


def _large(y: Tensor) -> bool:
    n, m = y.shape[1:]
    return (2 * n * m + 4 * n * n) * y.dtype.itemsize >= LARGE


def wide(x: Tensor) -> Tensor:
    """The shorter side first, a view."""
    return x.mT if x.shape[-2] > x.shape[-1] else x


def times(q: Tensor, y: Tensor) -> Tensor:
    """q y, laid out in memory as y is."""
    return torch.bmm(y.mT, q.mT).mT if y.stride(-1) != 1 and y.stride(-2) == 1 else torch.bmm(q, y)


def finish(q: Tensor, y: Tensor, goal: Tensor) -> None:
    """goal = q y, cut to goal's size: straight into it where that is of one size and dtype."""
    if goal.dtype != y.dtype or goal.shape != y.shape:
        goal.copy_(times(q, y)[:, : goal.shape[1], : goal.shape[2]])
    elif goal.stride(-1) != 1 and goal.stride(-2) == 1:
        torch.bmm(y.mT, q.mT, out=goal.mT)
    else:
        torch.bmm(q, y, out=goal)


def normalised(x: Tensor, dtype: torch.dtype, room: Tensor | None = None, unit: bool = False) -> tuple[Tensor, float]:
    """Matrices [batch, n, m] in `dtype` and a power of two: their product has Frobenius norm one, or zero for zero.

    Made in `room` if that is given, off CUDA and in float32 or float64; x itself if it is `unit` already. The power
    keeps the entries of large matrices away from the small end of fp16. Sides of 16-bit matrices on a GPU are filled up
    with zeros to multiples of eight, without which neither loads nor tensor cores go at full speed.
    """
    length = starting_norm(x.shape[1], dtype)
    wide = x.device.type == "cuda" and dtype.itemsize <= 2
    if unit:
        filled = _filled(x, dtype) if wide else x
        if filled.shape == x.shape:
            return x, 1.0 / length
        filled.zero_()[:, : x.shape[1], : x.shape[2]] = x
        return filled, 1.0 / length
    if wide and x.dtype.itemsize <= 4 and runs_kernels(x.device):
        return normalise(x, _filled(x, dtype), length), 1.0 / length
    if x.device.type == "cpu":
        return scaled(x, length, room).to(dtype), 1.0 / length
    level = x.to(torch.promote_types(x.dtype, torch.float32), copy=True) if room is None else room.copy_(x)
    peak = level.abs().amax((-2, -1), keepdim=True)
    level.div_(torch.where(peak > 0, peak, 1.0))
    own = level.square().sum((-2, -1), keepdim=True).sqrt()  # vector_norm is 4e-5 off at 768 x 3072 on a CPU
    level.mul_(length / torch.where(own > 0, own, 1.0))
    return level.to(dtype), 1.0 / length


def _filled(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for x [batch, n, m], with sides filled up to multiples of eight, laid out as x is."""
    n, m = (-(-size // 8) * 8 for size in x.shape[1:])
    if x.stride(-1) != 1 and x.stride(-2) == 1:
        return torch.empty(x.shape[0], m, n, dtype=dtype, device=x.device).mT
    return torch.empty(x.shape[0], n, m, dtype=dtype, device=x.device)
