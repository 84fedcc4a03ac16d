"""What recipes keep, and what a step takes on top: `python -m benchmarks.memory [--real] [recipe ...]`, all by default.

A table for GPT-2 of 124M parameters: the bytes of optimizer state that the plan says, and the peak of a step beyond
weights, gradients and state, for float32 and for bfloat16 weights. The peak is found on meta, where tensors have sizes
and no data: every storage that an op makes is counted until it is gone. Only what an op needs inside of itself isn't.
Steps run uncompiled.

--real   each recipe's step on the CPU in a process of its own, in bfloat16: the resident memory beyond weights and
         gradients. Slow.
--write  put the table between the marks of docs/recipes.md.

`python -m benchmarks.memory --device cuda` writes another table, into docs/memory.md: bytes and milliseconds of a few
recipes with states in float32, in bf16, in int8 and on the host, and of scion-light, on this machine's "cuda" or "cpu".
Weights and gradients are in bf16. On a GPU it is all of GPT-2; on one thread of a CPU it has two blocks, and peaks are
counted on meta.
"""

from __future__ import annotations

import resource
import statistics
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

from benchmarks.step.contest import Runner
from benchmarks.step.measure import WARM, Memory, timed
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
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True  # whether eigenpairs were found: as if they were
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self._known:
                    self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result


def plans(names: list[str], layers: int = 12) -> dict[str, NormPlan]:
    """The plan of GPT-2, of so many blocks, by each recipe; the model is traced once."""
    import transformers

    with weightless():
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=layers))
    graph = trace(model, *(own_inputs(model) or ((), {})))
    return {name: plan_graph(graph, Request(recipes[name])) for name in names}


def extra(plan: NormPlan, dtype: torch.dtype, device: str = "meta", **options: Any) -> tuple[int, int]:
    """(bytes of state after a step, bytes of the second step's peak beyond weights, gradients and that state)."""
    parameters = {row.name: nn.Parameter(torch.zeros(row.shape, dtype=dtype, device=device)) for row in plan.rows}
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    opt = build(plan, parameters.items(), lr=0.1, backend="cpu:fp32", compile=False, **options)
    with LiveBytes([]):
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


# What states are kept in: (recipe, words, options of normc.compile). On a CPU all states are on the host.
KEPT: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(
        (recipe, words, options)
        for recipe in ("adamw", "muon", "auto")
        for words, options in (
            ("float32", {}),
            ("bf16", {"state_dtype": torch.bfloat16}),
            ("int8", {"state_dtype": torch.int8}),
            ("float32 on the host", {"state_device": "cpu"}),
            ("int8 on the host", {"state_dtype": torch.int8, "state_device": "cpu"}),
        )
    ),
    ("scion", "float32", {}),
    ("scion", "int8", {"state_dtype": torch.int8}),
    ("scion-light", "the gradient, bf16", {}),
)


def kept(device: str) -> list[str]:
    """Markdown: bytes and milliseconds of each way to keep states, on a device."""
    torch.set_num_threads(1)
    found = plans(list(dict.fromkeys(recipe for recipe, _, _ in KEPT)), 12 if device == "cuda" else 2)
    rows = [row for row in KEPT if device == "cuda" or "state_device" not in row[2]]
    heads = ["recipe", "states in", "states on the device", "on the host", "a step's peak", "ms a step"]
    numel = sum(row.numel for row in next(iter(found.values())).rows)
    where = torch.cuda.get_device_name() if device == "cuda" else f"one thread of {_processor()}"
    what = f"{where}, torch {torch.__version__}. GPT-2{'' if device == 'cuda' else ' of two blocks'}"
    lines = [
        f"{what}, {numel:,} parameters: weights and gradients in bf16 take {_mb(4 * numel)}.",
        "",
        "| " + " | ".join(heads) + " |",
        "| --- | --- |" + " ---: |" * (len(heads) - 2),
    ]
    for recipe, words, options in rows:
        near, far, peak, ms = stepped(found[recipe], device, options)
        lines.append(
            f"| `{recipe}` | {words} | {_mb(near)} | {_mb(far)} | {_mb(peak)} | {ms:.{0 if ms >= 100 else 2}f} |"
        )
        print(lines[-1], flush=True)
    return lines


def stepped(plan: NormPlan, device: str, options: dict[str, Any]) -> tuple[int, int, int, float]:
    """Bytes of state beside the parameters and elsewhere, bytes of a step's peak beyond weights, gradients and state,
    and the median of a step's milliseconds: between events on a GPU, processor's time on a CPU.
    """
    generator = torch.Generator(device).manual_seed(0)
    parameters = {}
    for row in plan.rows:
        weight = torch.empty(row.shape, dtype=torch.bfloat16, device=device).normal_(std=0.02, generator=generator)
        parameters[row.name] = nn.Parameter(weight)
        parameters[row.name].grad = torch.empty_like(weight).normal_(std=1e-3, generator=generator)
    opt = build(plan, parameters.items(), lr=1e-4, **options)
    runner = Runner(opt.step, opt, [])
    timed(runner, 1, torch.device(device))  # states are made
    if device == "cuda":
        with Memory(torch.device(device)) as memory:
            timed(runner, WARM, torch.device(device))
        peak = memory.peak
    else:
        peak = extra(plan, torch.bfloat16, **options)[1]
    times = timed(runner, 20 if device == "cuda" else 3, torch.device(device))
    states = [value for state in opt.state.values() for value in state.values() if value.dim()]
    near, far = ([value for value in states if (value.device.type == device) is here] for here in (True, False))
    total = [sum(value.numel() * value.element_size() for value in own) for own in (near, far)]
    return total[0], total[1], peak, statistics.median(times)


def put(path: Path, mark: str, text: str) -> None:
    """Write a text between the two marks of a file."""
    before, found, rest = path.read_text().partition(mark)
    if not found or mark not in rest:
        raise SystemExit(f"{path} has no two marks {mark}")
    path.write_text(f"{before}{mark}\n{text}\n{mark}{rest.partition(mark)[2]}")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "this CPU")


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size else "0"


def main(arguments: list[str]) -> None:
    """Print the table of the recipes named, or of all, and write it if asked to."""
    warnings.simplefilter("ignore")
    if "--device" in arguments:
        device = arguments[arguments.index("--device") + 1]
        return put(DOCS / "memory.md", f"<!-- {device} -->", "\n".join(kept(device)))
    names = [name for name in arguments if not name.startswith("--")] or list(recipes)
    text = "\n".join(table(names, "--real" in arguments))
    if "--write" not in arguments:
        return print(text)
    return put(DOCS / "recipes.md", MARK, text)


if __name__ == "__main__":
    main(sys.argv[1:])
