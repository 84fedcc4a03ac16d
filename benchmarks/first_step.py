"""From a model to the end of its first step: `python -m benchmarks.first_step [--threads N] [--recipe NAME]`.

GPT-2 124M of transformers on the CPU, in a process of its own with empty compile caches. Imports and building the model
aren't counted. Each part is what it takes itself, without the parts inside it: seconds of the clock, and processor
seconds with those of the compiler's processes.

`--suite gpt2-xl` is one of benchmarks/step on a GPU instead: cold, then in a second process with the caches of the
first. Imports of normc are counted there, and every kernel that was compiled is listed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any


@dataclass(slots=True)
class Clock:
    """Seconds (of the clock, of the processor) of named parts; a part doesn't count while another runs inside it."""

    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    _open: list[str] = field(default_factory=list)
    _since: tuple[float, float] = (0.0, 0.0)

    def _turn(self) -> None:
        used = os.times()
        now = (time.perf_counter(), sum(used[:4]))
        if self._open:
            for place in range(2):
                self.parts[self._open[-1]][place] += now[place] - self._since[place]
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside counts as this part."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, all of whose calls count as this part."""

        @wraps(function)
        def timed(*args: Any, **how: Any) -> Any:
            with self.part(name):
                return function(*args, **how)

        return timed


def measured(recipe: str, threads: int) -> dict[str, Any]:
    """The parts, in this process."""
    import torch
    import transformers

    import normc
    from normc import pipeline

    if threads:
        torch.set_num_threads(threads)
    clock = Clock()
    patches: list[tuple[Any, str, str]] = [
        (pipeline, "trace", "tracing"),
        (pipeline, "analysed", "analyses: sizes, gains, sampled activations"),
        (pipeline, "update_of", "generating: lowering, rewrites, source"),
    ]
    for module, name, part in patches:
        setattr(module, name, clock.watched(part, getattr(module, name)))
    compile_ = torch.compile
    torch.compile = lambda *args, **how: clock.watched("compiling", compile_(*args, **how))
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    with clock.part("other: binding names, checks"):
        opt = normc.compile(model, torch.zeros(1, 16, dtype=torch.int64), lr=1e-3, recipe=recipe)
    for known in {id(bucket.step.__globals__): bucket.step.__globals__ for bucket in opt.update.buckets}.values():
        for name in ("polar", "newton_schulz"):
            if name in known:
                known[name] = clock.watched("Newton-Schulz, which every step pays", known[name])
    with clock.part("the rest of the step, with new state"):
        opt.step()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"threads": torch.get_num_threads(), "versions": versions, "parts": dict(clock.parts)}


def measured_on_gpu(suite: str) -> dict[str, Any]:
    """The parts of a suite's first step, in this process, and the seconds of Triton's compiler by kernel."""
    import torch

    from benchmarks.step.contest import problem
    from benchmarks.step.suites import SUITES

    torch.ones(256, 256, device="cuda").mm(torch.ones(256, 256, device="cuda"))
    given = problem(SUITES[suite], "cuda")
    torch.cuda.synchronize()
    clock = Clock()
    with clock.part("importing torch._dynamo, as every optimizer of torch does"):
        import torch._dynamo
    with clock.part("importing Triton and normc"):
        import triton

        from normc import pipeline
        from normc.update.runtime import launcher, layout
    patches: list[tuple[Any, str, str]] = [
        (pipeline, "trace", "tracing"),
        (pipeline, "analysed", "analyses: sizes, gains, sampled activations"),
        (pipeline, "update_of", "generating: lowering, rewrites, source"),
        (launcher, "Layout", "tables and new state"),
        (layout, "compile_ahead", "compiling kernels ahead, or finding them on disk"),
    ]
    for module, name, part in patches:
        setattr(module, name, clock.watched(part, getattr(module, name)))
    kernels: list[tuple[str, float]] = []

    def note(*, src: Any, times: Any, cache_hit: bool, **rest: Any) -> None:
        if not cache_hit:
            stages = [times.ir_initialization, *(seconds for _, seconds in times.lowering_stages)]
            kernels.append((src.name, sum(stages) / 1e6))

    triton.knobs.compilation.listener = note
    from benchmarks.step.ours import OURS

    with clock.part("other: binding names, checks"):
        runner = OURS.build(given)
    with clock.part("the rest of the step"):
        runner.prepare()
        runner.step()
        torch.cuda.synchronize()
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return {"versions": versions, "parts": dict(clock.parts), "kernels": sorted(kernels, key=lambda own: -own[1])}


def on_gpu(suite: str) -> None:
    """Print the parts of a suite's first step, cold and from disk."""
    from benchmarks.step.processes import CACHES

    with tempfile.TemporaryDirectory() as folder:
        caches = {name: f"{folder}/{own}" for name, own in CACHES.items()}
        command = [sys.executable, "-m", "benchmarks.first_step", "--here", "--suite", suite]
        found = []
        for _ in range(2):
            output = subprocess.run(command, env=os.environ | caches, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(output.stdout.splitlines()[-1]))
    cold, warm = ({name: seconds[0] for name, seconds in one["parts"].items()} for one in found)
    print(f"suite {suite}, {found[0]['versions']}, {os.cpu_count()} cores\n")
    print("| part | cold, s | from disk, s |\n| --- | ---: | ---: |")
    for name in cold:
        print(f"| {name} | {cold[name]:.2f} | {warm.get(name, 0.0):.2f} |")
    print(f"| whole | {sum(cold.values()):.2f} | {sum(warm.values()):.2f} |\n")
    print(f"{len(found[0]['kernels'])} kernels compiled, {len(found[1]['kernels'])} of them again from disk")
    for name, seconds in found[0]["kernels"]:
        print(f"{seconds:8.2f} s  {name}")


def main(arguments: list[str] | None = None) -> None:
    """Measure in a process of its own; print the parts, the longest first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_step", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--threads", type=int, default=0, help="by default torch's own number")
    parser.add_argument("--recipe", default="muon")
    parser.add_argument("--suite", help="of benchmarks/step, on a GPU")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.here:
        print(json.dumps(measured_on_gpu(given.suite) if given.suite else measured(given.recipe, given.threads)))
        return
    if given.suite:
        on_gpu(given.suite)
        return
    with tempfile.TemporaryDirectory() as folder:
        caches = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}
        command = [sys.executable, "-m", "benchmarks.first_step", "--here", "--recipe", given.recipe]
        command += ["--threads", str(given.threads)]
        output = subprocess.run(command, env=os.environ | caches, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    print(f"recipe {given.recipe}, {found['threads']} threads, {found['versions']}, load {os.getloadavg()[0]:.1f}\n")
    parts = sorted(found["parts"].items(), key=lambda item: -item[1][1])
    total = [sum(seconds[place] for _, seconds in parts) for place in range(2)]
    print("| part | seconds | processor seconds |\n| --- | ---: | ---: |")
    for name, (wall, processor) in [*parts, ("whole", total)]:
        print(f"| {name} | {wall:.1f} | {processor:.1f} |")


if __name__ == "__main__":
    main()
