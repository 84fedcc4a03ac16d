"""CUDA: the same generated code, its cores compiled; Newton-Schulz in bf16 from sm_80 on."""

from __future__ import annotations

import re

import torch

from normc.backends.backend import Backend, backends
from normc.errors import NormcError
from normc.recipe.recipe import Recipe
from normc.update.fused.module import FusedForm
from normc.update.program.module import Loaded, load, write
from normc.update.program.program import Program
from normc.version import VERSION


def target(name: str) -> str:
    """A target with its architecture: that of the device, or sm_80 without one. NormcError for another name."""
    if re.fullmatch(r"cuda:sm_[0-9]{2,3}", name):
        return name
    if name != "cuda":
        raise NormcError(f"no target is called {name!r}", "known: cpu, cpu:fp32, cpu:bf16, cuda, cuda:sm_90")
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (8, 0)
    return f"cuda:sm_{major}{minor}"


def polar_dtype(name: str) -> tuple[torch.dtype | None, str]:
    """fp16 from sm_80 on, else the stack's own dtype."""
    if int(name.rsplit("_", 1)[1]) >= 80:
        return torch.float16, "tensor cores multiply 16 bits; fp16 keeps eleven of them, bf16 eight"
    return None, f"{name} has no bf16"


def runs_kernels(name: str) -> bool:
    """Whether Triton's kernels run on a target: from sm_80 on."""
    return int(name.rsplit("_", 1)[1]) >= 80


def generate(program: Program, recipe: Recipe) -> Loaded:
    """Write the program as a module and load it."""
    text = write(program, recipe, VERSION, FusedForm(program))
    return Loaded(load(text.module, program.plan), text)


backends.add(
    "cuda",
    Backend(
        "cuda",
        "generated code, compiled for CUDA",
        True,
        target,
        polar_dtype,
        generate,
        kernels=True,
        runs_kernels=runs_kernels,
    ),
    __name__,
)
