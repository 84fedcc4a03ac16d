"""Steps whose kernels are compiled for a Hopper GPU, and not run: `python -m tests.update.kernels.compiling auto muon`.

`auto:int8` is auto with states in int8 and stochastic rounding. It needs no GPU: Triton and the assembler that comes
with it need to know the target alone. Triton's interpreter takes code that its compiler refuses. A process of its own,
as Triton is told before normc is imported.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

TARGET = "cuda:sm_90"
compiled: Counter[str] = Counter()


class Driver:
    """What Triton asks of a driver when it compiles."""

    def get_current_target(self) -> GPUTarget:
        """H100 and H200."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The first."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default one."""
        return 0


def only_compiled(jit: Callable[..., Any]) -> Callable[..., Any]:
    """Return a triton.jit whose kernels are compiled when they are launched."""

    def made(function: Callable[..., Any], **options: Any) -> Any:
        kernel = jit(function, **options)
        run = kernel.run

        def launch(*arguments: Any, warmup: bool, grid: Any, **values: Any) -> None:
            run(*arguments, warmup=True, grid=(1,), **values)
            compiled[function.__name__] += 1

        kernel.run = launch
        return kernel

    return made


def step(recipe: str, width: int, dtype: torch.dtype, policy: str) -> None:
    """Two steps of a small model. What kernels would have written isn't there, so that numbers mean nothing."""
    from normc.compiler import build
    from tests.handmade import Small, plan_of, small_rows

    model = Small(width=width, layers=2).to(dtype)
    name, _, kept = recipe.partition(":")
    plan = plan_of(small_rows(model), name)
    on_cpu()
    named = model.named_parameters()
    how: dict[str, Any] = {"state_dtype": getattr(torch, kept), "stochastic_rounding": True} if kept else {}
    optimizer = build(plan, named, lr=5e-3, backend=TARGET, compile=False, nonfinite=policy, **how)
    on_cpu()  # modules that were imported by then
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def on_cpu() -> None:
    """Have every module take the CPU for a device of kernels."""
    for name, module in list(sys.modules.items()):
        if name.startswith("normc.update.") and hasattr(module, "runs_kernels"):
            vars(module)["runs_kernels"] = lambda device: True


def main(recipes: list[str]) -> None:
    """Compile the kernels of each recipe, and print how often each was launched."""
    triton.runtime.driver.set_active(Driver())
    triton.jit = only_compiled(triton.jit)
    for recipe in recipes:
        for width, dtype, policy in ((4, torch.float32, "raise"), (520, torch.bfloat16, "zero")):
            step(recipe, width, dtype, policy)
    print(*(f"{name} {count}" for name, count in sorted(compiled.items())), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
