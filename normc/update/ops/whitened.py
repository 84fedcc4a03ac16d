"""Update ops of the Kronecker factors that minimise a Kullback-Leibler divergence: each is an average of gradients that
the other has whitened, in units of the other's size (KL-Shampoo and KL-SOAP, 2509.03378).

A basis [N, B, n, n] of a side has a spectrum [N, B, n]: its factor's eigenvalues, averaged on their own. Gradients are
seen as matrices [N, B, out, in]; views and `turned` are those of `kronecker`. As in `arithmetic`, their source is
copied into every generated module: torch alone, and each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normc.update.ops.kronecker import rotate, see
from normc.update.ops.late import initial


def seen(g: Tensor, rows: int, columns: int, view: tuple[tuple[int, ...], ...]) -> Tensor:
    """A stack [N, *parameter] as the matrices [N, B, rows, columns] that a view sees."""
    return see(g, view).reshape(g.shape[0], -1, rows, columns)


def seen_each(g: list[Tensor], rows: int, columns: int, view: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """`seen`: [B, rows, columns] each, views where the fold allows it."""
    return [seen(grad.unsqueeze(0), rows, columns, view)[0] for grad in g]


def over(x: Tensor, e: Tensor, turned: bool) -> Tensor:
    """Matrices [..., out, in], one side over the roots of a spectrum [..., n]. Shape of x."""
    return x / e.sqrt().clamp_min(1e-37).unsqueeze(-2 if turned else -1)


def turned_into(x: Tensor, q: Tensor, turned: bool) -> Tensor:
    """Matrices [N, B, out, in] with one side in the basis q. Shape of x."""
    own: Tensor = rotate(x.flatten(0, 1), q, turned, False)
    return own.reshape(x.shape)


def whitened(x: Tensor, q: Tensor, e: Tensor, step: Tensor, turned: bool) -> Tensor:
    """x Q E^-1/2 for the side of fan-in, else E^-1/2 Q^T x; at the first step, which has no basis yet, x."""
    return initial(step, x, over(turned_into(x, q, turned), e, turned))


def whitened_each(x: list[Tensor], q: list[Tensor], e: list[Tensor], step: list[Tensor], turned: bool) -> list[Tensor]:
    """`whitened`: the same tensors at the first step, else new ones."""
    found = []
    for own, basis, spectrum, time in zip(x, q, e, torch.stack(step).tolist(), strict=True):
        new = own if time == 1 else over(turned_into(own.unsqueeze(0), basis.unsqueeze(0), turned)[0], spectrum, turned)
        found.append(new)
    return found


def mean_gram(a: Tensor, x: Tensor, beta: float, turned: bool) -> Tensor:
    """The factor a <- beta a + (1 - beta) x x^T / in of the side of fan-out, or x^T x / out. Shape of a."""
    square = x.mT @ x if turned else x @ x.mT
    return a.lerp(square / x.shape[-2 if turned else -1], 1.0 - beta)


def mean_gram_each(a: list[Tensor], x: list[Tensor], beta: float, turned: bool) -> list[Tensor]:
    """`mean_gram`, in place."""
    for factor, own in zip(a, x, strict=True):
        square = own.mT @ own if turned else own @ own.mT
        factor.lerp_(square.div_(own.shape[-2 if turned else -1]), 1.0 - beta)
    return a


def mean_squares(x: Tensor, q: Tensor, turned: bool) -> Tensor:
    """The mean squares of x [N, B, out, in] along each column of a side's basis: [N, B, n]."""
    return turned_into(x, q, turned).square().mean(-2 if turned else -1)


def spectrum(
    e: Tensor, x: Tensor, q: Tensor, step: Tensor, beta: float, turned: bool, start: float, least: float
) -> Tensor:
    """e <- beta e + (1 - beta) diag(Q^T x x^T Q) / in, at least `least`; `start` at the first step. Shape of e."""
    return initial(step, torch.full_like(e, start), e.lerp(mean_squares(x, q, turned), 1.0 - beta).clamp_min(least))


def spectrum_each(
    e: list[Tensor],
    x: list[Tensor],
    q: list[Tensor],
    step: list[Tensor],
    beta: float,
    turned: bool,
    start: float,
    least: float,
) -> list[Tensor]:
    """`spectrum`, in place. Steps are 0-d tensors on the CPU, read together."""
    for old, own, basis, time in zip(e, x, q, torch.stack(step).tolist(), strict=True):
        if time == 1:
            old.fill_(start)
        else:
            old.lerp_(mean_squares(own.unsqueeze(0), basis.unsqueeze(0), turned)[0], 1.0 - beta).clamp_min_(least)
    return e


def over_spectra(x: Tensor, rows: Tensor | None, columns: Tensor | None, eps: float) -> Tensor:
    """x / (sqrt(e_out e_in) + eps) for matrices [N * B, out, in] in both bases; None is a spectrum of ones."""
    size: Tensor | float = 1.0
    if rows is not None:
        size = rows.reshape(x.shape[0], -1, 1).sqrt()
    if columns is not None:
        size = size * columns.reshape(x.shape[0], 1, -1).sqrt()
    assert isinstance(size, Tensor)
    return x / (size + eps).clamp_min(1e-37)
