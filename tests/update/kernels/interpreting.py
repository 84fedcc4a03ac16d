"""Kernels on the CPU: Triton's interpreter, its quirks put right, and fresh copies of modules read under it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from normc.update.kernels.language import jit

KERNELS = "normc.update.kernels"
PARTS = ("symmetric", "small", "normalise", "polar")


def _loose_index(patch: Any) -> Any:
    """The interpreter turns an array of one entry into an int, which NumPy no longer does."""

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    return patched


def _dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    """Float32 sums of products; the interpreter's own would multiply the bits of bf16."""
    from triton.runtime.interpreter import TensorHandle

    left, right = (_widened(x) for x in (a, b))
    return TensorHandle(np.matmul(left, right, dtype=np.float32) + d.data, d.dtype.scalar)


def _widened(x: Any) -> Any:
    from triton import language as tl

    if x.dtype.scalar == tl.bfloat16:
        return (x.data.astype(np.uint32) << 16).view(np.float32)
    return x.data.astype(np.float32)


def _rounding(cast: Any) -> Any:
    """The interpreter cuts float32 off to bf16 and loses bf16's subnormal numbers; devices do neither."""
    from triton import language as tl
    from triton.runtime.interpreter import TensorHandle

    def rounded(self: Any, source: Any, goal: Any) -> Any:
        if source.dtype.scalar == tl.float32 and goal.scalar == tl.bfloat16:
            bits = source.data.view(np.uint32)
            near = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
            source = type(source)(near.view(np.float32), source.dtype)
        if source.dtype.scalar == tl.bfloat16 and goal.scalar == tl.float32:
            return TensorHandle(_widened(source), goal.scalar)
        return cast(self, source, goal)

    return rounded


def _reads_modules_again(parts: tuple[str, ...]) -> SimpleNamespace:
    return SimpleNamespace(**{part: importlib.import_module(f"{KERNELS}.{part}") for part in parts})


def interpret(patches: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Triton's own functions, and the kernels of some modules, run in the interpreter, whose quirks are put right."""
    import triton.language
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    patches.setenv("TRITON_INTERPRET", "1")
    patches.setattr(interpreter, "_patch_lang_tensor", _loose_index(interpreter._patch_lang_tensor))
    patches.setattr(interpreter.InterpreterBuilder, "create_dot", _dot)
    cast = _rounding(interpreter.InterpreterBuilder.cast_impl)
    patches.setattr(interpreter.InterpreterBuilder, "cast_impl", cast)
    for space in (triton.language, triton.language.standard, *modules):
        for name, value in list(vars(space).items()):
            if isinstance(value, JITFunction):
                patches.setattr(
                    space, name, jit(value.fn) if space in modules else interpreter.InterpretedFunction(value.fn)
                )


@contextmanager
def interpreted(parts: tuple[str, ...] = PARTS) -> Iterator[SimpleNamespace]:
    """`normc.update.kernels.<part>` for each part, read under TRITON_INTERPRET=1; everything is put back at the end."""
    kept = {name: module for name, module in sys.modules.items() if name.startswith(KERNELS)}
    with pytest.MonkeyPatch.context() as patches:
        interpret(patches)
        for name in kept:
            del sys.modules[name]
        try:
            yield _reads_modules_again(parts)
        finally:
            for name in [name for name in sys.modules if name.startswith(KERNELS)]:
                del sys.modules[name]
            sys.modules.update(kept)
            if KERNELS in kept:  # its import anew has taken the place in the parent too
                parent, _, own = KERNELS.rpartition(".")
                vars(sys.modules[parent])[own] = kept[KERNELS]
