"""The CPU: generated code, its cores compiled; Newton-Schulz in bf16 where the instruction set multiplies it."""

from __future__ import annotations

import torch

from normc.backends import Backend, backends
from normc.errors import NormcError
from normc.recipes import Recipe
from normc.update.module import Loaded, load, write
from normc.update.program import Program
from normc.version import VERSION


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


def generate(program: Program, recipe: Recipe, name: str) -> Loaded:
    """Write the program as a module and load it."""
    text = write(program, recipe, name, VERSION)
    return Loaded(load(text.module, program.plan), text)


backends.add(
    "cpu", Backend("cpu", "generated code, compiled for the CPU", True, target, polar_dtype, generate), __name__
)
