"""Kernels compiled side by side, before the first step of a kind: Triton by itself compiles one after another, each at
its launch, and so it has a C compiler build what launches it, and loads both.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from contextvars import Context
from typing import Any

import torch

from normc.update.kernels.language import only_compiles, runs_kernels, triton

_preparing: list[threading.Thread] = []
_WORKERS = 16  # Triton's own Python runs in one thread at a time; its passes, LLVM and the assembler don't


class _Loading(ThreadPoolExecutor):
    """Threads on one device, in which a kernel that was compiled is loaded at once."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(min(os.cpu_count() or 1, _WORKERS), initializer=torch.cuda.set_device, initargs=(device,))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_loaded, fn, *args, **kwargs)


def _loaded(compiles: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    kernel = compiles(*args, **kwargs)
    kernel.run  # noqa: B018  # what launches it: built and loaded when it is asked for
    return kernel


def prepare(device: torch.device) -> None:
    """Have Triton do in a thread what it does once a process: build and load what it needs of a GPU's driver, and hash
    itself and ask for the assembler's version, by which it finds on disk what it compiled.
    """
    if device.type == "cuda" and runs_kernels(device):
        thread = threading.Thread(target=_prepare, args=(triton,), daemon=True)
        thread.start()
        _preparing.append(thread)


def _prepare(triton: Any) -> None:
    with suppress(AttributeError, RuntimeError, OSError, ImportError, subprocess.SubprocessError):  # a launch says it
        target = triton.runtime.driver.active.get_current_target()
        triton.compiler.make_backend(target).hash()
        triton.runtime.cache.triton_key()


def compile_ahead(launch: Callable[[], None], device: torch.device) -> None:
    """Compile every kernel that `launch` launches on a GPU, none of which is run.

    `launch` is called once, and torch's ops in it do run: they may write to nothing but memory that it makes. A kernel
    that doesn't compile says so when it is launched. Nothing is done off CUDA, while a graph is captured, and where
    Triton can't.
    """
    mode = getattr(triton, "AsyncCompileMode", None)
    if mode is None or device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return
    while _preparing:
        _preparing.pop().join()
    with _Loading(device) as pool:
        Context().run(_compile, launch, mode(pool, ignore_errors=True))


def _compile(launch: Callable[[], None], mode: AbstractContextManager[object]) -> None:
    """In a context of its own, which ends the setting, and where no other such mode is on."""
    only_compiles.set(True)
    with mode:
        launch()
