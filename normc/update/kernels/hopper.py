"""Symmetric products by quack-kernels, the extra normc[hopper]: where it is installed and comes out right."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

_QUACK_FROM = (0, 5)
_QUACK_ALIGN = 16  # bytes that addresses and strides are multiples of

# What was found on a device: quack's product, or None and the reason. Only a call outside of a CUDA graph can look.
_QUACK: dict[torch.device, tuple[Callable[..., Tensor] | None, str]] = {}


def quack_missing() -> str:
    """Why quack-kernels isn't used here; nothing if it is installed and no product of it has failed. Imports none."""
    return _quack_installed() or next((reason for _, reason in _QUACK.values() if reason), "")


@lru_cache(maxsize=1)
def _quack_installed() -> str:
    try:
        found = version("quack-kernels")
    except PackageNotFoundError:
        return "quack-kernels isn't installed"
    own = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    return "" if own >= _QUACK_FROM else f"quack-kernels {found} is older than {'.'.join(map(str, _QUACK_FROM))}"


def by_quack(a: Tensor, b: Tensor, out: Tensor, add: Tensor | None, alpha: float, beta: float) -> bool:
    """Whether out[i] = alpha a[i] b[i] + beta add[i], known to be symmetric, was computed: nothing was done if not.

    Shapes as in `product`. Rounds once, and computes the same half of the result as normc's own kernel. The first call
    on a device imports quack, and compiles its kernel unless that is on disk; nothing is tuned.
    """
    if _quack_installed() or not _quack_takes(a, b, out, add):
        return False
    device = a.device
    if device not in _QUACK:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False
        _QUACK[device] = _quack_on(device)
    run = _QUACK[device][0]
    if run is None:
        return False
    run(a, b, C=add, out=out, alpha=_scale(alpha), beta=_scale(beta) if add is not None else 1.0)
    return True


def _scale(value: float) -> float:
    """One in float32, which quack takes, but not in Python, which tells it to compile a kernel more."""
    return value if value != 1.0 else math.nextafter(1.0, 2.0)


def _quack_takes(a: Tensor, b: Tensor, out: Tensor, add: Tensor | None) -> bool:
    """16-bit matrices that lie in rows or in columns, aligned; of which none is written while it is read."""
    read = (a, b) if add is None else (a, b, add)
    given, size = (*read, out), a.element_size()
    return (
        a.dtype in (torch.float16, torch.bfloat16)
        and all(x.dtype == a.dtype for x in given)
        and all(x.numel() > 0 and x.data_ptr() % _QUACK_ALIGN == 0 for x in given)
        and all(side * size % _QUACK_ALIGN == 0 for x in given for side in x.shape[1:])
        and all(stride > 0 and stride * size % _QUACK_ALIGN == 0 for x in given for stride in _quack_strides(x))
        and all(x.data_ptr() != out.data_ptr() for x in read)
    )


def _quack_strides(x: Tensor) -> tuple[int, int]:
    """A stack's strides but the one that is one; zero if none is."""
    batch, row, column = x.stride()
    return batch, row if column == 1 else column if row == 1 else 0


def _quack_on(device: torch.device) -> tuple[Callable[..., Tensor] | None, str]:
    """quack's product if a small one comes out right on a device; else None and the reason, which is warned of."""
    try:
        from cutlass.base_dsl.common import DSLBaseError
    except ImportError:
        DSLBaseError = RuntimeError
    try:
        from quack.gemm_interface import gemm_symmetric

        # Whole numbers: sums are exact, whatever their order.
        x = torch.arange(520 * 64, device=device).remainder(13).sub(6).reshape(1, 520, 64).half()
        found = gemm_symmetric(x, x.mT, C=None, out=x.new_empty(1, 520, 520), alpha=0.5, beta=1.0)
        exact = x.float() @ x.float().mT * 0.5
        reason = "" if torch.equal(found.float(), exact.half().float()) else "a product comes out wrong"
    except (
        ImportError, OSError, RuntimeError, AttributeError, TypeError, ValueError, AssertionError, DSLBaseError
    ) as error:  # fmt: skip
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
    if not reason:
        return gemm_symmetric, ""
    warnings.warn(f"quack-kernels is left out on {device}: {reason}", stacklevel=2)
    return None, f"quack-kernels failed on {device}: {reason}"
