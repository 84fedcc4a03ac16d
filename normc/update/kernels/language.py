"""Triton, where it is installed: kernels are defined everywhere and run on CUDA, or anywhere in its interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["BLOCK", "jit", "only_compiles", "runs_kernels", "tl", "triton"]

# Entries that an elementwise kernel works on at once: of one scale, where it writes them scaled.
BLOCK = 1024

# What no kernel is compiled anew for: where these are one, or multiples of sixteen, says nothing of speed.
_PLAIN = ("stride", "tiles_across", "tiles", "parts", "blocks", "programs", "steps", "restart")
# Tables are read a number at a time, so that their addresses don't either: these are places in larger tables.
_TABLES = ("table", "slots", "numbers", "counts", "rows", "found")

only_compiles: ContextVar[bool] = ContextVar("only_compiles", default=False)


def jit(kernel: Callable[..., Any]) -> Any:
    """triton.jit, where there is Triton: without it nothing launches a kernel.

    Where `only_compiles` is set, to launch the kernel is to compile it, and it isn't run.
    """
    if triton is None:
        return kernel
    made = triton.jit(kernel, do_not_specialize=_PLAIN, do_not_specialize_on_alignment=_TABLES)
    run = made.run

    def launch(*args: Any, warmup: bool, **kwargs: Any) -> Any:
        return run(*args, warmup=warmup or only_compiles.get(), **kwargs)

    made.run = launch
    return made


def runs_kernels(device: torch.device) -> bool:
    """Whether kernels run there: on CUDA from sm_80 on, and anywhere in Triton's interpreter."""
    if triton is None:
        return False
    if device.type == "cuda":
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    return os.environ.get("TRITON_INTERPRET") == "1"
