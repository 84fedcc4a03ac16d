"""What is timed: a problem, and contestants that step it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step.suites import Language, Suite

LR, DECAY, MOMENTUM = 1.0, 0.1, 0.95  # with lr 1, the first step from zero weights is the orthogonalised gradient


class CannotRunError(Exception):
    """A contestant that isn't there, or doesn't do this; its text is the note beside it."""


@dataclass(slots=True)
class Problem:
    """A suite's module on a device. `matrices` are two-dimensional views of what Muon is for, gradients and all."""

    suite: Suite
    model: nn.Module
    example: Tensor
    matrices: list[nn.Parameter]
    rest: list[nn.Parameter]

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.example.device

    def everything(self) -> Iterator[nn.Parameter]:
        """All parameters, matrices as views."""
        yield from self.matrices
        yield from self.rest


def problem(suite: Suite, device: str, quick: bool = False, layers: int = 0) -> Problem:
    """The suite's module with zero weights and random gradients; of its blocks the first `layers` alone, if not 0."""
    with torch.device("meta"):
        model = suite.build(quick)
    stream: Any = getattr(model, "stream", model)
    if layers:
        stream.blocks = stream.blocks[:layers]
    model.to_empty(device=device)
    if isinstance(model, Language):
        model.tie()
    matrices, rest = [], []
    inner = {id(p) for name, p in model.named_parameters() if not name.startswith(("table", "positions"))}
    for parameter in model.parameters():
        parameter.data.zero_()
        if not parameter.requires_grad:
            continue
        parameter.grad = torch.zeros_like(parameter)
        if parameter.dim() < 2 or id(parameter) not in inner:
            rest.append(parameter)
            continue
        view = nn.Parameter(parameter.data.view(len(parameter), -1))
        view.grad = parameter.grad.view(len(parameter), -1)
        matrices.append(view)
    made = Problem(suite, model, suite.example(quick).to(device), matrices, rest)
    refill(made)
    return made


def refill(given: Problem, seed: int = 0) -> None:
    """New gradients in place: some optimizers write into them."""
    generator = torch.Generator(given.device).manual_seed(seed)
    for parameter in given.everything():
        assert parameter.grad is not None
        parameter.grad.normal_(generator=generator)


@dataclass(slots=True)
class Runner:
    """A contestant that is built. `prepare` comes before each step and isn't timed; `settle` comes once, after the
    first, and waits for what goes on beside it; `matrices` are the ones it steps.

    `scale` is what it multiplies the orthogonalised gradient of a matrix [rows, columns] by; None if unknown. An
    ablation says what the rewrite that it leaves out was predicted to save.
    """

    step: Callable[[], object]
    optimizer: Any
    matrices: list[nn.Parameter]
    scale: Callable[[int, int], float] | None = None
    prepare: Callable[[], None] = lambda: None
    own: tuple[Tensor, ...] = field(default=())
    predicted: str = ""
    settle: Callable[[], None] = lambda: None

    def state_bytes(self) -> int:
        """Of all tensors that the optimizer keeps."""
        states = self.optimizer.state.values() if hasattr(self.optimizer, "state") else ()
        tensors = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        return sum(tensor.untyped_storage().nbytes() for tensor in (*tensors, *self.own))


@dataclass(frozen=True, slots=True)
class Contestant:
    """`kind` is "normc", "ablation", "peer", "bar" (an honest low bar) or "scale" (AdamW, which does less)."""

    name: str
    kind: str
    note: str
    build: Callable[[Problem], Runner]
    devices: tuple[str, ...] = ("cuda", "cpu")


def original(rows: int, columns: int) -> float:
    """Keller Jordan's and torch's factor."""
    return math.sqrt(max(1.0, rows / columns))


def none(rows: int, columns: int) -> float:
    """No factor."""
    return 1.0


def adamw(rest: list[nn.Parameter]) -> torch.optim.AdamW | None:
    """Fused AdamW for what isn't a matrix, as one runs it beside Muon. Capturable, on CUDA."""
    if not rest:
        return None
    capturable = rest[0].device.type == "cuda"
    return torch.optim.AdamW(rest, lr=1e-3, fused=True, capturable=capturable)


class Both:
    """An optimizer of matrices and AdamW for the rest, stepped as one."""

    def __init__(self, first: Any, rest: list[nn.Parameter]) -> None:
        self.first, self.second = first, adamw(rest)

    @property
    def state(self) -> dict[Any, Any]:
        """Of both."""
        return {**self.first.state, **(self.second.state if self.second is not None else {})}

    def step(self) -> None:
        """One step of both."""
        self.first.step()
        if self.second is not None:
            self.second.step()


class Graphed:
    """A step in a CUDA graph: three steps as they are on a side stream, one captured, and replays from then on."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.count = inner, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    @property
    def state(self) -> dict[Any, Any]:
        """Of the optimizer inside."""
        found: dict[Any, Any] = self.inner.state
        return found

    def step(self) -> None:
        """A step, captured when it is time."""
        if self.graph is not None:
            return self.graph.replay()
        self.count += 1
        if self.count > 3:
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.inner.step()
            return self.graph.replay()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.inner.step()
        torch.cuda.current_stream().wait_stream(stream)
        return None
