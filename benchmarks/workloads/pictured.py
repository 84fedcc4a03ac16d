"""The task of naming the sign on a picture, for any model of pictures."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks.workloads.layers import classified
from benchmarks.workloads.pictures import pictures
from benchmarks.workloads.workload import Task, draw, seeded


def pictured(build: Callable[[], nn.Module], quick: bool, seed: int, device: str) -> Task:
    """Return the task of a classifier on 131,072 pictures of 36 signs: 600 steps of 256 at full size.

    The quick form shows four of the signs, upright and alone.
    """
    count, measured, rows, steps, every = (256, 64, 16, 24, 8) if quick else (131_072, 2048, 256, 600, 20)
    train, tuning, held = (pictures(n, key, device, quick) for key, n in enumerate((count, measured, measured)))
    return Task(
        model=seeded(seed, device, build),
        inputs=train.images[:4],
        loss=classified,
        batch=lambda step: train.batch(rows, draw(seed, step)),
        tuning=tuning.batches(512),
        held_out=held.batches(512),
        steps=steps,
        every=every,
    )
