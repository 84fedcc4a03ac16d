"""The CPU: generated code; Newton-Schulz in bf16 where the instruction set multiplies it, else by cheaper algebra."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from normc.backends.backend import Backend, backends
from normc.errors import NormcError
from normc.recipe.recipe import Recipe
from normc.update.kernels.newton_schulz import beside, newton_schulz, picked
from normc.update.ops.matrices import join, part, polar
from normc.update.program.module import Loaded, load, write
from normc.update.program.program import Family, Program
from normc.update.program.source import Printer
from normc.update.program.switches import of_matrices
from normc.version import VERSION

# Entries of a turn's stacks. Larger allocations come from the operating system each time, to be cleared page by page.
AT_ONCE = 2**23


class Products:
    """Steps stay lists of tensors; Newton-Schulz goes to the matrix kernels."""

    def __init__(self, program: Program) -> None:
        self._without = of_matrices(program.build.without)

    def swaps(self, family: Family) -> Mapping[Any, Any]:
        """Newton-Schulz as the matrix kernels run it, in the form that does the least work for a size."""
        op = partial(newton_schulz, without=self._without) if self._without else newton_schulz
        nodes = family.core.graph.nodes if family.core is not None else ()
        matrices = any(node.target is polar for node in nodes)
        return {polar: op, join: beside, part: picked} if matrices else {}

    @property
    def helpers(self) -> list[str]:
        """None."""
        return []

    def step(self, family: Family) -> None:
        """None of its own."""

    def bucket(self, printer: Printer, family: Family) -> list[str]:
        """Nothing more."""
        return []


def fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware: AMX-BF16 or AVX512-BF16."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def target(name: str) -> str:
    """A target as this machine has it: "cpu" becomes "cpu:bf16" where bf16 is fast. NormcError for another name."""
    if name not in ("cpu", "cpu:fp32", "cpu:bf16"):
        raise NormcError(f"no target is called {name!r}", "known: cpu, cpu:fp32, cpu:bf16, cuda, cuda:sm_90")
    return "cpu:bf16" if name == "cpu" and fast_bf16() else name


def polar_dtype(name: str) -> tuple[torch.dtype | None, str]:
    """bf16 for "cpu:bf16", else the stack's own dtype."""
    if name == "cpu:bf16":
        return torch.bfloat16, "the CPU multiplies bf16 in hardware"
    return None, "float32 is the CPU's fastest"


def generate(program: Program, recipe: Recipe) -> Loaded:
    """Write the program as a module and load it."""
    text = write(program, recipe, VERSION, Products(program))
    return Loaded(load(text.module, program.plan), text)


backends.add(
    "cpu",
    Backend("cpu", "generated code on lists of tensors", True, target, polar_dtype, generate, at_once=AT_ONCE),
    __name__,
)
