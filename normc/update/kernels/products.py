"""Products of stacks of matrices that are known to be symmetric, in the way that is fastest where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from normc.update.kernels.hopper import by_quack
from normc.update.kernels.language import runs_kernels
from normc.update.kernels.symmetric import symmetric
from normc.update.kernels.tiles import CPU_BLOCK, HOPPER_FROM, MIRRORED_FROM, PARALLEL_BLOCK, SYMMETRIC_FROM


def symmetric_pays(
    n: int, dtype: torch.dtype, device: torch.device, without: tuple[str, ...] = (), kernels: bool | None = None
) -> bool:
    """Whether `product` computes half of an n x n result in this dtype on this device.

    `kernels` says whether kernels run there; None asks the device.
    """
    if "symmetric" in without or n < SYMMETRIC_FROM.get(device.type, n + 1):
        return False
    if device.type == "cuda":
        narrow = dtype in (torch.float16, torch.bfloat16)
        return narrow and (runs_kernels(device) if kernels is None else kernels)
    return dtype in (torch.float32, torch.float64)


def hopper_pays(
    n: int,
    dtype: torch.dtype,
    device: torch.device,
    without: tuple[str, ...] = (),
    capability: tuple[int, int] | None = None,
) -> bool:
    """Whether quack-kernels, if it is there, computes n x n results that `symmetric_pays` faster than normc's kernel.

    `capability` is that of the device; None asks it.
    """
    if device.type != "cuda" or "hopper" in without or n < HOPPER_FROM or dtype.itemsize > 2:
        return False
    return (torch.cuda.get_device_capability(device) if capability is None else capability) == (9, 0)


def folds(
    n: int, dtype: torch.dtype, device: torch.device, without: tuple[str, ...] = (), kernels: bool | None = None
) -> bool:
    """Whether the standard form has a of a X + (b R + c R^2) X on the diagonal of what X is multiplied by.

    In bf16 such a diagonal is rounded to more than the rest weighs. On a CPU baddbmm copies what it adds.
    """
    if "fold" in without or dtype == torch.bfloat16:
        return False
    wide = dtype in (torch.float32, torch.float64)
    return device.type == "cuda" or wide or symmetric_pays(n, dtype, device, without, kernels)


def product(
    a: Tensor,
    b: Tensor,
    out: Tensor,
    *,
    add: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.0,
    without: tuple[str, ...] = (),
) -> Tensor:
    """out[i] = alpha a[i] b[i] + beta add[i] + gamma I, where a b is known to be symmetric.

    `a` [batch, n, k], `b` [batch, k, n]; `add`, `out` [batch, n, n]. `out` is neither a nor b; it may be `add`. Never
    give b^T for a symmetric b: rounding leaves it not quite symmetric, and in chains of products that commute this
    costs ten times the accuracy.
    """
    n = out.shape[-1]
    pays = symmetric_pays(n, a.dtype, a.device, without)
    # quack adds no diagonal. Added to what is rounded already it would double the error of a Gaussian matrix.
    if pays and gamma == 0.0 and hopper_pays(n, a.dtype, a.device, without):
        if by_quack(a, b, out, add, alpha, beta):
            return out
    if pays and a.device.type != "cpu":
        return symmetric(a, b.mT, add=add, alpha=alpha, beta=beta, gamma=gamma, out=out)
    if add is not None and not pays:
        torch.baddbmm(add, a, b, beta=beta, alpha=alpha, out=out)
    else:
        other = torch.empty_like(out) if add is out else out
        if pays:
            _halves(a, b, other)
        else:
            torch.bmm(a, b, out=other)
        if alpha != 1.0:
            other.mul_(alpha)
        if add is not None:
            torch.add(other, add, alpha=beta, out=out)
    if gamma != 0.0:
        out.diagonal(dim1=-2, dim2=-1).add_(gamma)
    return out


def mirrors(n: int, dtype: torch.dtype, device: torch.device, without: tuple[str, ...] = ()) -> bool:
    """Whether a product of two matrices that commute, but for rounding, is computed by halves as well.

    Both halves then hold what rounding makes of it, where a dense product keeps null spaces on one side clean: in 16
    bits, matrices of less than full rank come out five times worse. The less so, the larger they are.
    """
    return symmetric_pays(n, dtype, device, without) and (dtype.itemsize > 2 or n >= MIRRORED_FROM)


def sandwich(gram: Tensor, factor: Tensor, half: Tensor, more: float = 0.0, without: tuple[str, ...] = ()) -> Tensor:
    """gram = z gram z for z = factor + more I, where they commute; `half` is workspace.

    Dense: gram z z, in which all is a polynomial of one matrix, rounding included. By halves: (gram z)^T z, symmetric
    whether they commute or not; with gram z by halves too, z (gram z), which is twice as accurate as (gram z) z.
    """
    n, added = gram.shape[-1], gram if more else None
    pays = symmetric_pays(n, gram.dtype, gram.device, without)
    if pays and not mirrors(n, gram.dtype, gram.device, without):
        a = dense(gram, factor, half, add=added, beta=more).mT
        return product(a, factor, gram, add=a if more else None, beta=more, without=without)
    product(gram, factor, half, add=added, beta=more, without=without)
    a, b = (factor, half) if pays else (half, factor)
    return product(a, b, gram, add=half if more else None, beta=more, without=without)


def longer(
    whole: Tensor, factor: Tensor, out: Tensor, alpha: float, more: float = 0.0, without: tuple[str, ...] = ()
) -> Tensor:
    """out = alpha z whole for z = factor + more I, where they commute."""
    added, n = whole if more else None, whole.shape[-1]
    if symmetric_pays(n, whole.dtype, whole.device, without) and not mirrors(n, whole.dtype, whole.device, without):
        return dense(factor, whole, out, add=added, alpha=alpha, beta=alpha * more)
    return product(whole, factor, out, add=added, alpha=alpha, beta=alpha * more, without=without)


def dense(
    a: Tensor, b: Tensor, out: Tensor, *, add: Tensor | None = None, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """out[i] = alpha a[i] b[i] + beta add[i]; `out` may be none of them."""
    if add is None and alpha == 1.0:
        return torch.bmm(a, b, out=out)
    return torch.baddbmm(out if add is None else add, a, b, beta=0.0 if add is None else beta, alpha=alpha, out=out)


def linear(x: Tensor, out: Tensor, beta: float, gamma: float) -> Tensor:
    """out[i] = beta x[i] + gamma I."""
    torch.mul(x, beta, out=out)
    out.diagonal(dim1=-2, dim2=-1).add_(gamma)
    return out


def _halves(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Both halves of the diagonal likewise, the block below it as a dense product, and that above it by copying."""
    n = a.shape[1]
    if n <= (CPU_BLOCK if torch.get_num_threads() == 1 else PARALLEL_BLOCK):
        torch.bmm(a, b, out=out)
        return
    half = (n // 2 + 15) // 16 * 16
    _halves(a[:, :half], b[:, :, :half], out[:, :half, :half])
    _halves(a[:, half:], b[:, :, half:], out[:, half:, half:])
    torch.bmm(a[:, half:], b[:, :, :half], out=out[:, half:, :half])
    out[:, :half, half:] = out[:, half:, :half].mT
