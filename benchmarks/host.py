"""The host's part of a step, by parameters: `python -m benchmarks.host [--numbers 200 2000] [--device cuda]`.

By Python's loops over parameters, and by compiled ones (normc/update/runtime/native.py), in turns in one process; with
the gradients of the step before, and with new ones. On a GPU it is the time until step() returns, the GPU idle before
it, and the step is a real one. Elsewhere it is the thread's processor time, and only the launch of kernels is left out:
the weights are on the CPU, and no kernel runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

WARM, TURN = 4, 10  # untimed and timed steps of each turn


class Stack:
    """Makes an optimizer of `number` matrices of 64 x 64, each used once."""

    def __init__(self, number: int, recipe: str, device: str) -> None:
        import torch
        from torch import nn

        import normc

        layers = [nn.Linear(64, 64, bias=False) for _ in range(number)]
        model = nn.Sequential(*layers).to(device)
        self.parameters = list(model.parameters())
        self.gradients = [[torch.randn_like(p) for p in self.parameters] for _ in range(3)]
        target = "cuda" if device == "cuda" else "cuda:sm_90"
        self.opt: Any = normc.compile(model, torch.zeros(1, 64, device=device), recipe=recipe, lr=1e-3, backend=target)
        self.give(0)

    def give(self, turn: int) -> None:
        """One of three sets of gradients."""
        for parameter, gradient in zip(self.parameters, self.gradients[turn % 3], strict=True):
            parameter.grad = gradient


def microseconds(stack: Stack, new: bool, device: str) -> list[float]:
    """Of some steps, after some that aren't timed."""
    import torch

    clock = time.perf_counter if device == "cuda" else time.thread_time
    found = []
    for turn in range(WARM + TURN):
        if new:
            stack.give(turn)
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        stack.opt.step()
        found.append((clock() - start) * 1e6)
    return found[WARM:]


def compared(stack: Stack, paths: dict[str, Any], turns: int, device: str) -> dict[tuple[str, bool], list[float]]:
    """Microseconds by path, and by whether gradients are new."""
    stack.opt.step()
    found: dict[tuple[str, bool], list[float]] = {(path, new): [] for path in paths for new in (False, True)}
    for _ in range(turns):
        for (path, new), times in found.items():
            stack.opt._launcher.native.loops = paths[path]
            times += microseconds(stack, new, device)
    return found


def fetched() -> tuple[Any, float]:
    """The compiled loops, or None, and the seconds that they took: little if they were in the cache."""
    import subprocess

    from normc.update.runtime import native

    start = time.perf_counter()
    try:
        return native.compiled(), time.perf_counter() - start
    except (OSError, ImportError, RuntimeError, subprocess.SubprocessError):
        return None, time.perf_counter() - start


def unlaunched(device: str) -> Callable[[], Any]:
    """What keeps kernels from being launched, off a GPU."""
    from normc.update.runtime.layout import Layout

    if device == "cuda":
        return nullcontext
    return lambda: mock.patch.object(Layout, "_launch", lambda self: None)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--numbers", type=int, nargs="+", default=[200, 2000], help="of parameters")
    parser.add_argument("--recipes", nargs="+", default=["muon", "adamw"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--turns", type=int, default=5, help=f"of {TURN} timed steps each")
    given = parser.parse_args(arguments)
    if given.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # else kernels' steps aren't for a CPU's weights
    os.environ["NORMC_NATIVE"] = "0"  # nothing compiles beside the timing

    import torch

    torch.set_num_threads(1)
    loops, seconds = fetched()
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, compiled loops after {seconds:.1f} s", end="")
    print("\n" if loops is not None else ": none, is there a C++ compiler?\n")
    paths = {"Python": None} | ({"compiled": loops} if loops is not None else {})
    print("| recipe | parameters | gradients | loops | median, us | least, us |")
    print("| --- | ---: | --- | --- | ---: | ---: |")
    with unlaunched(given.device)():
        for recipe in given.recipes:
            for number in given.numbers:
                stack = Stack(number, recipe, given.device)
                for (path, new), times in compared(stack, paths, given.turns, given.device).items():
                    row = (recipe, number, "new" if new else "the same", path)
                    print(
                        f"| {' | '.join(map(str, row))} | {statistics.median(times):.0f} | {min(times):.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
