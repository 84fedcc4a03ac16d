"""What recipes keep, and what a step takes on top: `python -m benchmarks.memory [--real] [recipe ...]`, all by default.

A table for GPT-2 of 124M parameters: the bytes of optimizer state that the plan says, and the peak of a step beyond
weights, gradients and state, for float32 and for bfloat16 weights. The peak is found on meta, where tensors have sizes
and no data: every storage that an op makes is counted until it is gone. Only what an op needs inside of itself isn't.
Steps run uncompiled.

--real   each recipe's step on the CPU in a process of its own, in bfloat16: the resident memory beyond weights and
         gradients. Slow.
--write  put the table between the marks of docs/recipes.md.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from normc.compiler import build
from normc.model.trace.frontend import trace
from normc.model.trace.own_inputs import own_inputs
from normc.model.weightless import weightless
from normc.passes.analyses.request import Request
from normc.pipeline import plan_graph
from normc.plans.plan import NormPlan
from normc.recipe.by_name import recipes

DOCS = Path(__file__).parents[1] / "docs"
MARK = "<!-- memory -->"


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that ops make while it is on, from first to last use; `peak` is the most at once."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    @property
    def now(self) -> int:
        """Bytes that are alive."""
        self._live = {key: (ref, size) for key, (ref, size) in self._live.items() if not ref.expired()}
        return sum(size for _, size in self._live.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self._known:
                    self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result


def plans(names: list[str]) -> dict[str, NormPlan]:
    """GPT-2's plan by each recipe; the model is traced once."""
    import transformers

    with weightless():
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    graph = trace(model, *(own_inputs(model) or ((), {})))
    return {name: plan_graph(graph, Request(recipes[name])) for name in names}


def extra(plan: NormPlan, dtype: torch.dtype, device: str = "meta") -> tuple[int, int]:
    """(bytes of state after a step, bytes of the second step's peak beyond weights, gradients and that state)."""
    parameters = {row.name: nn.Parameter(torch.zeros(row.shape, dtype=dtype, device=device)) for row in plan.rows}
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    opt = build(plan, parameters.items(), lr=0.1, backend="cpu:fp32", compile=False)
    opt.step()
    states = [value for state in opt.state.values() for value in state.values() if isinstance(value, Tensor)]
    grads = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    with LiveBytes([*parameters.values(), *grads, *states]) as live:
        opt.step()
    assert live.now < 2**16, f"a step of {plan.recipe} leaves {live.now} bytes behind"
    return sum(value.untyped_storage().nbytes() for value in states), live.peak


def measured(name: str) -> int:
    """Resident bytes of a step on this machine, beyond weights and gradients in bfloat16."""
    code = f"from benchmarks.memory import resident; resident({name!r})"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=3600)
    return int(run.stdout.splitlines()[-1])


def resident(name: str) -> None:
    """In a process of its own: print how much the largest resident size grew."""
    torch.set_num_threads(1)
    (plan,) = plans([name]).values()
    generator = torch.Generator().manual_seed(0)
    parameters = {}
    for row in plan.rows:
        parameters[row.name] = nn.Parameter(torch.empty(row.shape, dtype=torch.bfloat16).normal_(generator=generator))
        parameters[row.name].grad = torch.empty_like(parameters[row.name]).normal_(generator=generator)
    opt = build(plan, parameters.items(), lr=0.1, backend="cpu:fp32", compile=False)
    before = _now()
    opt.step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def _now() -> int:
    """The resident size; it is the largest so far, as everything above is still held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(names: list[str], real: bool = False) -> list[str]:
    """Markdown, the least state first."""
    found = plans(names)
    lines = []
    for name, plan in sorted(found.items(), key=lambda item: item[1].state_bytes):
        row = [f"`{name}`", _mb(plan.state_bytes)]
        for dtype in (torch.float32, torch.bfloat16):
            try:
                state, peak = extra(plan, dtype)
            except (NotImplementedError, RuntimeError) as error:  # an op that has no form on meta
                print(f"{name} in {dtype}: {str(error).splitlines()[0]}", file=sys.stderr)
                row.append("not known")
                continue
            assert state == plan.state_bytes, f"{name} holds {state} bytes, its plan says {plan.state_bytes}"
            row.append(_mb(peak))
        row += [_mb(measured(name))] if real else []
        lines.append(row)
        print("  ".join(row), flush=True)
    total = sum(row.numel for row in next(iter(found.values())).rows)
    heads = ["recipe", "state", "a step's peak, float32", "a step's peak, bfloat16", *(["measured"] if real else [])]
    intro = (
        f"GPT-2, {total:,} parameters: weights and gradients take {_mb(8 * total)} in float32, {_mb(4 * total)} in "
        "bfloat16. State is the same for both; a peak is what a step holds beyond weights, gradients and state."
    )
    return [
        intro,
        "",
        "| " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * (len(heads) - 1),
        *("| " + " | ".join(row) + " |" for row in lines),
    ]


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size else "0"


def main(arguments: list[str]) -> None:
    """Print the table of the recipes named, or of all, and write it if asked to."""
    warnings.simplefilter("ignore")
    names = [name for name in arguments if not name.startswith("--")] or list(recipes)
    text = "\n".join(table(names, "--real" in arguments))
    if "--write" not in arguments:
        return print(text)
    path = DOCS / "recipes.md"
    before, mark, rest = path.read_text().partition(MARK)
    if not mark or MARK not in rest:
        raise SystemExit(f"{path} has no two marks {MARK}")
    path.write_text(f"{before}{MARK}\n{text}\n{MARK}{rest.partition(MARK)[2]}")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
