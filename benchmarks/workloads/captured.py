"""Gradients and losses of a run: on a GPU from CUDA graphs, as many runs share a card and its processor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.workloads.workload import Batch, Task

WARM = 3  # passes before a capture, as torch asks for


def backward(given: Task, model: nn.Module, device: str) -> Callable[[Batch], None]:
    """Return what leaves a batch's gradients in the model. On a GPU all batches have the shapes of the first.

    Under autocast to bf16 on a GPU. Buffers are as before.
    """
    if device != "cuda":
        return lambda batch: given.loss(model, batch).backward()
    inputs = {name: value.clone() for name, value in given.batch(0).items()}
    before = [buffer.clone() for buffer in model.buffers()]

    def once() -> None:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            given.loss(model, inputs).backward()

    graph = _captured(once)
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
    grads: list[tuple[nn.Parameter, Tensor | None]] = [(one, one.grad) for one in model.parameters()]
    model.zero_grad()

    def replayed(batch: Batch) -> None:
        for name, value in batch.items():
            inputs[name].copy_(value)
        graph.replay()
        for parameter, grad in grads:
            parameter.grad = grad

    return replayed


@torch.no_grad()
def measuring(given: Task, model: nn.Module, batches: Sequence[Batch], device: str) -> Callable[[], float]:
    """Return what measures the mean loss over batches in eval mode; inf if it isn't finite."""

    def once() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            return torch.stack([given.loss(model, batch) for batch in batches]).float().mean()

    if device != "cuda":
        return lambda: _eager(once, model)
    held: list[Tensor] = []
    model.eval()
    graph = _captured(lambda: held.append(once()))
    model.train()

    def replayed() -> float:
        graph.replay()
        return _finite(float(held[-1]))

    return replayed


@torch.no_grad()
def _eager(once: Callable[[], Tensor], model: nn.Module) -> float:
    model.eval()
    loss = float(once())
    model.train()
    return _finite(loss)


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _captured(once: Callable[[], None]) -> Any:
    stream: Any = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph
