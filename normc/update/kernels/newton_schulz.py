"""Newton-Schulz in the form that does the least work for a shape and device."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from normc.update.kernels.cost import form
from normc.update.kernels.polar import RESTART_AFTER, WORKSPACE, polar_many, polar_standard
from normc.update.kernels.small import Polynomials, small

# Bytes of intermediate stacks on a CPU: what stays in its caches, and in memory that was in use before.
CPU_WORKSPACE = 2**24

Stacks = TypeVar("Stacks", Tensor, list[Tensor])


def newton_schulz(
    x: Stacks,
    polynomials: Polynomials,
    dtype: torch.dtype | None = None,
    unit: bool = False,
    without: tuple[str, ...] = (),
) -> Stacks:
    """The matrices [batch, rows, columns] with every singular value pushed to about one. Shape of x.

    Of a list, the stacks of matrices of one short and long side: each is read and written as it lies in memory.

    One odd polynomial a s + b s^3 + c s^5 of the singular values a step, starting from Frobenius norm one, in `dtype`
    (default: that of x). Zero stays zero. Comes out rounded to `dtype`, as a tensor of the dtype of x, or of `dtype`
    where both have 16 bits.
    `unit` says that each x is in `dtype` and of its `starting_norm`, or zero, and that its memory may be that of the
    result. `without` are rewrites to leave out: "small", "gram", "symmetric", "hopper", "fold".
    """
    if not isinstance(x, list):
        return _each([x], polynomials, dtype or x.dtype, unit, without)[0]
    return _each(x, polynomials, dtype or x[0].dtype, unit, without)


def beside(xs: list[Tensor]) -> list[Tensor]:
    """In place of `join`: stacks that share a call of `newton_schulz` stay where they are."""
    return xs


def picked(us: list[Tensor], joined: list[Tensor], index: int) -> Tensor:
    """In place of `part`: what became of joined[index]."""
    return us[index]


def _each(
    xs: list[Tensor], polynomials: Polynomials, dtype: torch.dtype, unit: bool, without: tuple[str, ...]
) -> list[Tensor]:
    given, device = xs[0].dtype, xs[0].device
    result = dtype if given.itemsize == dtype.itemsize else given
    n, m = sorted(xs[0].shape[-2:])
    kind = form(n, m, dtype, device, steps=len(polynomials), without=without)
    if kind == "small":
        over = unit and dtype == given
        outs = [x if over else torch.empty_like(x, dtype=dtype) for x in xs]
        return [small(x, polynomials, dtype=dtype, out=out).to(result) for x, out in zip(xs, outs, strict=True)]
    space = CPU_WORKSPACE if device.type == "cpu" else WORKSPACE
    if kind == "gram":
        # Wider dtypes are most exact where both segments are of one length; 16 bits need an early restart.
        after = RESTART_AFTER if dtype.itemsize <= 2 else (len(polynomials) + 1) // 2
        return polar_many(
            xs, polynomials, restart_after=after, dtype=dtype, result=result, workspace=space, unit=unit,
            without=without,
        )  # fmt: skip
    how = {"dtype": dtype, "result": result}
    return [polar_standard(x, polynomials, workspace=space, unit=unit, without=without, **how) for x in xs]
