"""One training run under a progress bar, with everything that a comparison of two optimizers needs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
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


def muon(model: nn.Module, lr: float, decay: float = 0.1, beta2: float = 0.95) -> list[torch.optim.Optimizer]:
    """torch.optim.Muon for matrices and AdamW for the rest, at one lr, which Muon adjusts to steps of AdamW's size.

    Matrices have two axes; no embedding, nor what is tied to one, nor the last layer. ValueError if there are none.
    """
    layers = [module for module in model.modules() if isinstance(getattr(module, "weight", None), nn.Parameter)]
    looked_up = [module.weight for module in layers if isinstance(module, nn.Embedding)]
    others = {id(weight) for weight in [*looked_up, layers[-1].weight]}
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in others]
    if not matrices:
        raise ValueError("the model has no matrices for torch.optim.Muon")
    taken = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=lr, betas=(0.9, beta2)),
    ]


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
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    name: str,
    console: Console,
    warmup: float,
    clip: float | None = None,
) -> Run:
    """Train for the task's steps under a bar with loss and time left; without a terminal, a line a measurement.

    Several optimizers step one after the other. `warmup` is a share of the steps; then lr falls linearly to zero.
    `clip` bounds the norm of all gradients together.
    """
    optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
    rates = [normc.schedule(each, task.steps, warmup=warmup) for each in optimizers]
    losses: list[float] = []
    measured: list[tuple[int, float]] = []
    durations: list[float] = []
    spent = 0.0
    columns = (
        TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(),
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
            for each in optimizers:
                each.step()
            durations.append(time.perf_counter() - before)
            model.zero_grad()
            for rate in rates:
                rate.step()
            losses.append(float(loss.detach()))
            spent += time.perf_counter() - start
            if (step + 1) % task.every == 0 or step + 1 == task.steps:
                measured.append((step + 1, measure(task, model)))
                progress.update(bar, validation=measured[-1][1])
                if not console.is_terminal:
                    console.print(
                        f"{name:>12}  step {step + 1:4d}  loss {losses[-1]:.3f}  validation {measured[-1][1]:.3f}"
                    )
            progress.update(bar, advance=1, loss=losses[-1])
    return Run(name, tuple(losses), tuple(measured), 1e3 * statistics.median(durations), 1e3 * durations[0], spent)
