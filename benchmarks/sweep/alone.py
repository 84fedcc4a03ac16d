"""`python -m benchmarks.sweep.alone zuko/unaf#0 training`: run one model in a process that has planned nothing.

A plan may leave something behind (a fake tensor in a cache) that stops the model, and any other of its library, from
running. Whether a model runs is therefore asked here. The last line printed is why it doesn't, or `runs`.
"""

from __future__ import annotations

import random
import subprocess
import sys

import torch

from benchmarks.sweep.gradients import reached
from benchmarks.sweep.libraries.example import Build
from benchmarks.sweep.measure import line

_SECONDS = 100


def runs_alone(name: str, training: bool) -> str | None:
    """Why the model `name` doesn't run, forward and backward, in a process of its own; None if it does."""
    command = [sys.executable, "-m", "benchmarks.sweep.alone", name, "training" if training else "eval"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"over {_SECONDS} s without a plan too"
    printed = done.stdout.strip().splitlines()
    last = printed[-1] if printed and not done.returncode else f"its process ended with {done.returncode}"
    return None if last == "runs" else last


def main(name: str, mode: str) -> None:
    """Print whether the model runs."""
    from benchmarks.sweep.others import builder

    build: Build
    build, seed = builder(name)
    torch.manual_seed(0)
    try:
        example = build(random.Random(seed))
        reached(example.model.train(mode == "training"), (example.args, example.kwargs))
    except Exception as problem:  # noqa: BLE001  # whatever the model raises is the finding
        print(line(problem))
        return
    print("runs")


if __name__ == "__main__":
    main(*sys.argv[1:])
