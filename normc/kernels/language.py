"""Triton, where it is installed: kernels are defined everywhere and run on CUDA, or anywhere in its interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["jit", "runs_kernels", "tl", "triton"]


def jit(kernel: Callable[..., Any]) -> Any:
    """triton.jit, where there is Triton: without it nothing launches a kernel."""
    return kernel if triton is None else triton.jit(kernel)


def runs_kernels(device: torch.device) -> bool:
    """Whether kernels run there: on CUDA from sm_80 on, and anywhere in Triton's interpreter."""
    if triton is None:
        return False
    if device.type == "cuda":
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    return os.environ.get("TRITON_INTERPRET") == "1"
