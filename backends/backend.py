"""What a backend is, and all of them by name: importing a file of this folder registers its backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from normc.recipe.recipe import Recipe
from normc.registry import Registry
from normc.update.program.build import Device
from normc.update.program.module import Loaded
from normc.update.program.program import Program


@dataclass(frozen=True, slots=True)
class Backend:
    """`target` completes a target's name for this machine ("cpu" may become "cpu:bf16"). `polar_dtype` says what
    Newton-Schulz runs in on a target, and why. A `batched` backend is given rewritten programs, another plain ones; one
    with `kernels` runs what is elementwise in kernels of its own. If `at_once` isn't 0, stacks of matrices take turns
    of at most so many entries. `runs_kernels` says whether Triton's kernels run on a target.
    """

    name: str
    summary: str
    batched: bool
    target: Callable[[str], str]
    polar_dtype: Callable[[str], tuple[torch.dtype | None, str]]
    load: Callable[[Program, Recipe], Loaded]
    kernels: bool = False
    at_once: int = 0
    runs_kernels: Callable[[str], bool] = lambda target: False

    def device(self, name: str) -> Device:
        """What rewrites ask of a target of this backend; completed for this machine. NormcError if it has no such."""
        target = self.target(name)
        polar, why = self.polar_dtype(target)
        return Device(self.name, target, self.runs_kernels(target), self.kernels, self.at_once, polar, why)


backends: Registry[Backend] = Registry("backend", "normc.backends")
