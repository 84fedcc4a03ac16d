"""Kernels compiled side by side, before the first step of a kind: Triton by itself compiles one after another, each at
its launch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import Context

import torch

from normc.kernels.language import only_compiles, triton

_WORKERS = 16  # Triton's own Python runs in one thread at a time; its passes, LLVM and the assembler don't


def compile_ahead(launch: Callable[[], None], device: torch.device) -> None:
    """Compile every kernel that `launch` launches on a GPU, none of which is run.

    `launch` is called once, and torch's ops in it do run: they may write to nothing but memory that it makes. A kernel
    that doesn't compile says so when it is launched. Nothing is done off CUDA, while a graph is captured, and where
    Triton can't.
    """
    mode = getattr(triton, "AsyncCompileMode", None)
    if mode is None or device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _WORKERS)) as pool:
        Context().run(_compile, launch, mode(pool, ignore_errors=True))


def _compile(launch: Callable[[], None], mode: AbstractContextManager[object]) -> None:
    """In a context of its own, which ends the setting, and where no other such mode is on."""
    only_compiles.set(True)
    with mode:
        launch()
