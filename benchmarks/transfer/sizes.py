"""The Llama-like models that are trained: widths, depths and batch sizes around one of them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.workloads.families.llama import Llama, SwiGlu
from benchmarks.workloads.layers import next_token
from benchmarks.workloads.tokens import corpus
from benchmarks.workloads.workload import Batch, Task, draw, seeded

HEAD = 32  # the same at every width, so that attention's own scale is too


class Size(NamedTuple):
    """Width, blocks, and rows of a batch."""

    width: int
    depth: int
    batch: int

    @property
    def label(self) -> str:
        """`256x4x64`."""
        return "x".join(map(str, self))

    @staticmethod
    def of(label: str) -> Size:
        """Return the size of a label."""
        return Size(*map(int, label.split("x")))


class Sizes(NamedTuple):
    """The size in the middle, and what each of its numbers is varied over."""

    middle: Size
    width: tuple[int, ...]
    depth: tuple[int, ...]
    batch: tuple[int, ...]

    def along(self, axis: str) -> list[Size]:
        """Return the sizes that differ in `axis` alone."""
        return [self.middle._replace(**{axis: value}) for value in getattr(self, axis)]

    def all(self) -> list[Size]:
        """Return every size once."""
        return list(dict.fromkeys(size for axis in AXES for size in self.along(axis)))


AXES = ("width", "depth", "batch")
SIZES = {
    "full": Sizes(Size(256, 4, 64), (64, 128, 256, 512, 1024), (2, 4, 8, 16, 24), (16, 32, 64, 128, 256)),
    "quick": Sizes(Size(32, 1, 4), (32, 64), (1, 2), (2, 4, 8)),
}


@functools.lru_cache(maxsize=2)
def task(label: str, quick: bool, seed: int, device: str) -> Task:
    """Return the task of a size: Python's standard library as tokens, 500 steps of `batch` x 256.

    Tokens and the places of all batches lie on the device before the first step: a step waits for no copy.
    """
    size = Size.of(label)
    context, steps, every, measured, rows = (16, 12, 3, 1, 4) if quick else (256, 500, 20, 2, 64)
    tokens = corpus("code", quick)
    train, offsets = tokens.train.to(device), torch.arange(context + 1, device=device)
    last = tokens.train.numel() - context
    starts = torch.randint(0, last, (steps, size.batch, 1), generator=draw(seed, 0)).to(device)
    tuning, held = tokens.measured(rows, context, measured, device)

    def build() -> nn.Module:
        mixers: list[nn.Module] = [SwiGlu(size.width, size.width * 8 // 3) for _ in range(size.depth)]
        return Llama(tokens.vocabulary, size.width, mixers, HEAD)

    def batch(step: int) -> Batch:
        cut: Tensor = train[starts[step] + offsets].long()
        return {"ids": cut[:, :-1], "next": cut[:, 1:]}

    return Task(
        model=seeded(seed, device, build),
        inputs=tuning[0]["ids"],
        loss=next_token,
        batch=batch,
        tuning=tuning,
        held_out=held,
        steps=steps,
        every=every,
    )
