"""A workload: a model from a seed, batches that depend on seed and step alone, and two held-out sets.

The learning rate is chosen by `tuning`, and results are reported on `held_out`. Both are the same for every seed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
Cut = Callable[[torch.Generator], Batch]
WORKLOADS: dict[str, Workload] = {}


@dataclass(frozen=True, slots=True)
class Task:
    """One workload at one size, from one seed, on one device. The model is planned with `inputs`."""

    model: Callable[[], nn.Module]
    inputs: Any
    loss: Callable[[nn.Module, Batch], Tensor]
    batch: Callable[[int], Batch]
    tuning: tuple[Batch, ...]
    held_out: tuple[Batch, ...]
    steps: int
    every: int  # steps between measurements


Make = Callable[[bool, int, str], Task]


@dataclass(frozen=True, slots=True)
class Workload:
    """A name, one line on what it is, and `make(quick, seed, device)`. SGD takes part where `images` is true."""

    name: str
    summary: str
    images: bool
    make: Make


def workload(name: str, summary: str, *, images: bool = False) -> Callable[[Make], Make]:
    """Register what the decorated function makes. ValueError if the name is taken."""

    def add(make: Make) -> Make:
        if name in WORKLOADS:
            raise ValueError(f"two workloads are called {name!r}: {WORKLOADS[name].make.__module__}, {make.__module__}")
        WORKLOADS[name] = Workload(name, summary, images, make)
        return make

    return add


def load() -> dict[str, Workload]:
    """Import every family and return all workloads, sorted by name."""
    package = importlib.import_module("benchmarks.workloads.families")
    for found in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{found.name}")
    return dict(sorted(WORKLOADS.items()))


def draw(seed: int, step: int) -> torch.Generator:
    """Return the generator of one training batch."""
    return torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)


def held(part: int) -> Iterator[torch.Generator]:
    """Yield generators for held-out batches without end; part 0 is for tuning, part 1 is reported."""
    index = 0
    while True:
        yield torch.Generator().manual_seed((1 << 40) + (part << 20) + index)
        index += 1


def held_out(cut: Cut, part: int, count: int) -> tuple[Batch, ...]:
    """Return `count` batches of one held-out part, drawn by `cut`."""
    return tuple(cut(generator) for generator, _ in zip(held(part), range(count), strict=False))


def seeded(seed: int, device: str, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return a function that builds the model from `seed` on the CPU and moves it to `device`."""

    def model() -> nn.Module:
        torch.manual_seed(seed)
        return build().to(device)

    return model


def drawn(
    build: Callable[[], nn.Module],
    loss: Callable[[nn.Module, Batch], Tensor],
    cuts: Sequence[Cut],
    reads: tuple[str, ...],
    *,
    seed: int,
    device: str,
    steps: int,
    every: int,
    measured: int,
) -> Task:
    """Return the task whose batches are drawn, then moved to `device`.

    cuts      three: each draws a batch, to train on, for tuning, of the held-out part.
    reads     the entries of a batch that the model is planned with.
    measured  batches of each held-out part.
    """

    def moved(cut: Cut) -> Cut:
        return lambda generator: {name: value.to(device) for name, value in cut(generator).items()}

    train, tuning, held = map(moved, cuts)
    first = held_out(tuning, 0, measured)
    return Task(
        model=seeded(seed, device, build),
        inputs=tuple(first[0][name] for name in reads),
        loss=loss,
        batch=lambda step: train(draw(seed, step)),
        tuning=first,
        held_out=held_out(held, 1, measured),
        steps=steps,
        every=every,
    )
