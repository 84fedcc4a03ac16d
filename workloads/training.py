"""One training run under a progress bar, with everything that a comparison of two optimizers needs."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

import normc
from workloads.tasks import Task


@dataclass(frozen=True, slots=True)
class Run:
    """How one run went. Losses in nats; `optimizer_ms` is the median step(); `seconds` leaves measuring out."""

    name: str
    train: tuple[float, ...]
    validation: tuple[tuple[int, float], ...]  # (steps done, loss)
    optimizer_ms: float
    first_step_ms: float
    seconds: float

    @property
    def final(self) -> float:
        """The validation loss after the last step."""
        return self.validation[-1][1]

    def reached(self, loss: float) -> int | None:
        """The first measured number of steps after which the validation loss is at most `loss`; None if never."""
        return next((step for step, value in self.validation if value <= loss), None)


def adamw(model: nn.Module, lr: float, decay: float = 0.1, beta2: float = 0.95) -> torch.optim.AdamW:
    """AdamW as small language models are trained: betas .9 and `beta2`, decay on everything that has two axes."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, beta2))


@torch.no_grad()
def measure(task: Task, model: nn.Module) -> float:
    """The mean loss over the task's validation batches, in eval mode; the training flag is put back."""
    was = model.training
    model.eval()
    value = statistics.fmean(float(task.loss(model, batch)) for batch in task.validation)
    model.train(was)
    return value


def train(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    name: str,
    console: Console,
    warmup: float,
    clip: float | None = None,
) -> Run:
    """Train for the task's steps under a bar with loss and time left; without a terminal, a line a measurement.

    `clip` bounds the norm of all gradients together.
    """
    rate = normc.schedule(optimizer, task.steps, warmup=warmup)
    losses: list[float] = []
    measured: list[tuple[int, float]] = []
    durations: list[float] = []
    spent = 0.0
    columns = (
        TextColumn("{task.description:>6}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  validation {task.fields[validation]:.3f}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(name, total=task.steps, loss=float("nan"), validation=float("nan"))
        for step in range(task.steps):
            start = time.perf_counter()
            loss = task.loss(model, task.batch(step))
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            before = time.perf_counter()
            optimizer.step()
            durations.append(time.perf_counter() - before)
            optimizer.zero_grad()
            rate.step()
            losses.append(float(loss.detach()))
            spent += time.perf_counter() - start
            if (step + 1) % task.every == 0 or step + 1 == task.steps:
                measured.append((step + 1, measure(task, model)))
                progress.update(bar, validation=measured[-1][1])
                if not console.is_terminal:
                    console.print(
                        f"{name:>6}  step {step + 1:4d}  loss {losses[-1]:.3f}  validation {measured[-1][1]:.3f}"
                    )
            progress.update(bar, advance=1, loss=losses[-1])
    return Run(name, tuple(losses), tuple(measured), 1e3 * statistics.median(durations), 1e3 * durations[0], spent)
