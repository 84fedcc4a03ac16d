"""The task of predicting the next token, for any model of tokens."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks.workloads.layers import next_token
from benchmarks.workloads.tokens import corpus
from benchmarks.workloads.workload import Task, draw, seeded

Build = Callable[[int, int], nn.Module]  # from the vocabulary and the context


def language(text: str, build: Build, quick: bool, seed: int, device: str, units: str = "") -> Task:
    """Return the task of a language model on a corpus: 500 steps of 32 x 128 tokens at full size."""
    rows, context, steps, every, measured = (8, 24, 24, 8, 2) if quick else (32, 128, 500, 20, 8)
    tokens = corpus(text, quick, units)
    tuning, held = tokens.measured(rows, context, measured, device)
    return Task(
        model=seeded(seed, device, lambda: build(tokens.vocabulary, context)),
        inputs=tuning[0]["ids"],
        loss=next_token,
        batch=lambda step: tokens.batch(rows, context, draw(seed, step), device),
        tuning=tuning,
        held_out=held,
        steps=steps,
        every=every,
    )
