"""Update ops of Kronecker preconditioners: a factor for each side of a matrix, its root (Shampoo, 1802.09568), or its
eigenbasis (SOAP, 2409.11321).

What is done once in many steps is done by the `_each` forms alone, which look at each parameter's count; the plain
forms compute it always and choose. Factors, roots and bases are [N, B, n, n], counts [N]; `turned` means the side of
fan-in. A `view` says which matrices [N * B, out, in] are seen of a parameter: sizes, order and shape of `fold`, and of
a part (axis, start, stop, start, stop...). As in `arithmetic`, their source is copied into every generated module:
torch alone, and each other.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from normc.update.ops.late import initial
from normc.update.ops.matrices import fold, take, unfold


def see(x: Tensor, view: tuple[tuple[int, ...], ...]) -> Tensor:
    """A stack [N, *parameter] as matrices [N * B, out, in]."""
    sizes, order, (blocks, rows, columns), where = view
    if where:
        x = take(x, where[0], tuple(zip(where[1::2], where[2::2], strict=True)))
    return fold(x, sizes, order, (blocks, rows, columns))


def put(x: Tensor, own: Tensor, view: tuple[tuple[int, ...], ...]) -> Tensor:
    """A stack [N, *parameter] with the matrices `own` in place of those that `see` sees of it."""
    sizes, order, (blocks, rows, columns), where = view
    if not where:
        return unfold(own, sizes, order, (blocks, rows, columns), tuple(x.shape[1:]))
    axis, starts, stops = where[0] + 1, where[1::2], where[2::2]
    total = sum(stops) - sum(starts)
    part = unfold(own, sizes, order, (blocks, rows, columns), (*x.shape[1:axis], total, *x.shape[axis + 1 :]))
    whole, offset = x.clone(), 0
    for start, stop in zip(starts, stops, strict=True):
        whole.narrow(axis, start, stop - start).copy_(part.narrow(axis, offset, stop - start))
        offset += stop - start
    return whole


def due(step: float, every: int) -> bool:
    """Whether a step refreshes what the first one made: every so many after it."""
    return step > 1 and (step - 1) % every == 0


def choose(step: Tensor, every: int, new: Tensor, old: Tensor) -> Tensor:
    """`new` [N, ...] for the counts [N] that are `due`, else `old`."""
    those = (step > 1) & ((step - 1) % every == 0)
    return torch.where(those.reshape(step.shape + (1,) * (old.dim() - 1)).to(old.device), new, old)


def renewed(step: Tensor, every: int, new: Tensor, old: Tensor) -> Tensor:
    """`new` [N, ...] for the counts [N] that are 1 or `due`, else `old`."""
    return initial(step, new, choose(step, every, new, old))


def gram(a: Tensor, g: Tensor, beta: float, turned: bool, view: tuple[tuple[int, ...], ...]) -> Tensor:
    """The factor a <- beta a + (1 - beta) x x^T of one side, or for a beta of 1 the sum a + x x^T. Shape of a."""
    x = see(g, view)
    square = (x.mT @ x if turned else x @ x.mT).reshape(a.shape)
    return a + square if beta == 1.0 else a.lerp(square, 1.0 - beta)


def gram_each(
    a: list[Tensor], g: list[Tensor], beta: float, turned: bool, view: tuple[tuple[int, ...], ...]
) -> list[Tensor]:
    """`gram`, in place."""
    for factor, grad in zip(a, g, strict=True):
        x = see(grad.unsqueeze(0), view)
        square = x.mT @ x if turned else x @ x.mT
        if beta == 1.0:
            factor.add_(square)
        else:
            factor.lerp_(square, 1.0 - beta)
    return a


def eigenpairs(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of symmetric matrices [..., n, n]. NaN where eigh raises."""
    try:
        values, vectors = torch.linalg.eigh(a)
    except RuntimeError:
        vectors = torch.full_like(a, math.nan)
        values = vectors[..., 0]
    return values, vectors


def finite_eigenpairs(a: Tensor) -> tuple[Tensor, Tensor]:
    """`eigenpairs`, by float64 where those of float32 aren't finite; then matrix by matrix, NaN for one without."""
    for dtype in dict.fromkeys((a.dtype, torch.float64)):
        values, vectors = (found.to(a.dtype) for found in eigenpairs(a.to(dtype)))
        if bool((values.isfinite().all() & vectors.isfinite().all()).item()):
            break
    else:
        if a.dim() > 2:
            pairs = [finite_eigenpairs(own) for own in a]
            return torch.stack([values for values, _ in pairs]), torch.stack([vectors for _, vectors in pairs])
    return values, vectors


def sound(new: Tensor, old: Tensor) -> Tensor:
    """Those matrices [..., n, n] of `new` that are finite, else those of `old`."""
    return torch.where(new.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), new, old)


def made_first(new: Tensor, old: Tensor, step: Tensor) -> Tensor:
    """`sound`, where at the first of the counts [N] the old matrices are the identity: the plain update."""
    first = (step == 1).reshape(step.shape + (1,) * (old.dim() - 1)).to(old.device)
    return sound(new, torch.where(first, torch.eye(old.shape[-1], dtype=old.dtype, device=old.device), old))


def decomposed(new: Tensor, old: Tensor, first: bool, place: int) -> Tensor:
    """`made_first` of one parameter. A warning says its place in the list where a matrix has no eigenpairs."""
    if bool(new.isfinite().all().item()):
        return new
    warnings.warn(f"no eigenpairs: {place}", RuntimeWarning, stacklevel=2)
    return sound(new, torch.eye(new.shape[-1], dtype=new.dtype, device=new.device) if first else old)


def inverse_root(a: Tensor, pairs: tuple[Tensor, Tensor], eps: float, power: float, trace: bool) -> Tensor:
    """(a + eps)^-power of symmetric matrices with these eigenpairs, with `trace` times the root of the trace of a.
    Shape and dtype of a.

    Of an eigenvalue zero without eps, zero; what may be nothing but rounding counts as that.
    """
    values, vectors = pairs
    values = values.clamp_min(0.0)
    if eps == 0.0:
        noise = values.amax(-1, keepdim=True) * (torch.finfo(a.dtype).eps * a.shape[-1])
        values = torch.where(values > noise, values, 0.0)
    values = values + eps
    powers = torch.where(values > 0, values, 1.0) ** -power * (values > 0)
    if trace:
        powers = powers * a.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True).sqrt()
    return (vectors * powers.unsqueeze(-2)) @ vectors.mT


def root(p: Tensor, a: Tensor, step: Tensor, eps: float, every: int, power: float, trace: bool) -> Tensor:
    """The inverse root of a factor, made at the first step and every so many after it. Shape of p."""
    return renewed(step, every, made_first(inverse_root(a, eigenpairs(a), eps, power, trace), p, step), p)


def root_each(
    p: list[Tensor], a: list[Tensor], step: list[Tensor], eps: float, every: int, power: float, trace: bool
) -> list[Tensor]:
    """`root`, in place. Steps are 0-d tensors on the CPU, read together."""
    for place, (old, factor, time) in enumerate(zip(p, a, torch.stack(step).tolist(), strict=True)):
        if time == 1 or due(time, every):
            new = inverse_root(factor, finite_eigenpairs(factor), eps, power, trace)
            old.copy_(decomposed(new, old, time == 1, place))
    return p


def rotate(x: Tensor, q: Tensor, turned: bool, back: bool) -> Tensor:
    """Matrices [N * B, out, in] with one side in the basis q [N, B, n, n], or `back` from it. Shape of x."""
    q = q.reshape(x.shape[0], q.shape[-2], q.shape[-1])
    if turned:
        return x @ (q.mT if back else q)
    return (q if back else q.mT) @ x


def ranking(q: Tensor, a: Tensor) -> Tensor:
    """The order [..., n] of a basis' columns by what the factor makes of them, the largest first; as they are where
    that isn't finite.
    """
    size = (q * (a @ q)).sum(-2)
    size = torch.where(size.isfinite().all(-1, keepdim=True), size, 0.0)
    return size.argsort(dim=-1, descending=True, stable=True)


def refreshed(q: Tensor, a: Tensor, sort: bool) -> Tensor:
    """A basis after one step of power iteration; with `sort` its columns in the order of `ranking`. Shape of q."""
    power = a @ q
    if sort:
        power = power.gather(-1, ranking(q, a).unsqueeze(-2).expand(q.shape))
    columns: Tensor = torch.linalg.qr(power)[0]
    return sound(columns, q)


def basis(q: Tensor, a: Tensor, step: Tensor, every: int, sort: bool) -> Tensor:
    """The eigenbasis of a factor: exact at the first step, `refreshed` every so many after it. Shape of q."""
    # In one expression: a plain file, whose stacks are of one parameter, computes the basis that it takes alone.
    return initial(step, made_first(eigenpairs(a)[1].flip(-1), q, step), choose(step, every, refreshed(q, a, sort), q))


def basis_each(q: list[Tensor], a: list[Tensor], step: list[Tensor], every: int, sort: bool) -> list[Tensor]:
    """`basis`, in place. Steps are 0-d tensors on the CPU, read together."""
    for place, (old, factor, time) in enumerate(zip(q, a, torch.stack(step).tolist(), strict=True)):
        if time == 1:
            old.copy_(decomposed(finite_eigenpairs(factor)[1].flip(-1), old, True, place))
        elif due(time, every):
            old.copy_(refreshed(old, factor, sort))
    return q


def turn(
    m: Tensor, q: Tensor, step: Tensor, every: int, turned: bool, back: bool, view: tuple[tuple[int, ...], ...]
) -> Tensor:
    """A rotated average taken `back` from a basis before it is refreshed, or into it after. Shape of m."""
    return choose(step, every, put(m, rotate(see(m, view), q, turned, back), view), m)


def turn_each(
    m: list[Tensor],
    q: list[Tensor],
    step: list[Tensor],
    every: int,
    turned: bool,
    back: bool,
    view: tuple[tuple[int, ...], ...],
) -> list[Tensor]:
    """`turn`, in place."""
    for average, columns, time in zip(m, q, torch.stack(step).tolist(), strict=True):
        if due(time, every):
            x = average.unsqueeze(0)
            x.copy_(put(x, rotate(see(x, view), columns, turned, back), view))
    return m


def ranked(x: Tensor, order: Tensor, turned: bool) -> Tensor:
    """Matrices [N * B, out, in] with one side in an order [N, B, n]. Shape of x."""
    order = order.reshape(x.shape[0], order.shape[-1]).unsqueeze(1 if turned else 2)
    return x.gather(2 if turned else 1, order.expand(x.shape))


def reorder(
    v: Tensor, q: Tensor, a: Tensor, step: Tensor, every: int, turned: bool, view: tuple[tuple[int, ...], ...]
) -> Tensor:
    """Average squares in the order that `basis` is about to put its columns in. Shape of v."""
    return choose(step, every, put(v, ranked(see(v, view), ranking(q, a), turned), view), v)


def reorder_each(
    v: list[Tensor],
    q: list[Tensor],
    a: list[Tensor],
    step: list[Tensor],
    every: int,
    turned: bool,
    view: tuple[tuple[int, ...], ...],
) -> list[Tensor]:
    """`reorder`, in place."""
    for squares, columns, factor, time in zip(v, q, a, torch.stack(step).tolist(), strict=True):
        if due(time, every):
            x = squares.unsqueeze(0)
            x.copy_(put(x, ranked(see(x, view), ranking(columns, factor), turned), view))
    return v
