"""The plain loop that every host is compared with, and what both share: a small GPT-2 and its batches."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

import normc
from benchmarks.sweep.vision import importable_torchvision
from workloads.tasks import Batch, Task, gpt2_task

LR = 0.4
ROWS = 8
Schedule = Callable[[Optimizer, int], LRScheduler]


@functools.cache
def task() -> Task:
    """A GPT-2 of two layers and width 32 on the Bible's bytes, eight rows of 32 a batch."""
    importable_torchvision()  # transformers imports it where it is installed
    return gpt2_task(quick=True)


class Windows(Dataset[Batch]):
    """The task's rows one after the other, as far as `steps` batches go: in this order hosts see its very batches."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return self.steps * ROWS

    def __getitem__(self, index: int) -> Batch:
        batch = task().batch(index // ROWS)
        return {name: value[index % ROWS] for name, value in batch.items()}


def parts(step: int, number: int) -> list[Batch]:
    """The batch of a step in equal parts."""
    cut = {name: value.chunk(number) for name, value in task().batch(step).items()}
    return [{name: values[part] for name, values in cut.items()} for part in range(number)]


def mean_loss(model: nn.Module, batch: Batch, number: int) -> Tensor:
    """The mean loss of one of `number` parts, as a share of the step's."""
    return task().loss(model, batch) / number


def loop(
    steps: int,
    *,
    compiled: bool,
    number: int = 1,
    clip: float | None = None,
    by_groups: bool = False,
    schedule: Schedule = normc.schedule,
    loss: Callable[[nn.Module, Batch, int], Tensor] = mean_loss,
    made: Callable[[], nn.Module] | None = None,
    through: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> nn.Module:
    """Train a model from its seed for `steps` and return it.

    number    parts of each batch whose gradients are summed.
    clip      the largest norm of all gradients together; `by_groups` sums it in the order of the optimizer's groups.
    schedule  makes a scheduler of the optimizer and the steps.
    loss      of a model, a part of a batch, and the number of parts.
    made      makes the model; by default the task's.
    through   what forwards go through: torch.compile, say.
    """
    model = (made or task().model)()
    model.train()
    opt = normc.compile(model, lr=LR, compile=compiled)
    rate = schedule(opt, steps)
    called = through(model)
    for step in range(steps):
        for part in parts(step, number):
            loss(called, part, number).backward()
        if clip is not None:
            own = [parameter for group in opt.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(own if by_groups else list(model.parameters()), clip)
        opt.step()
        opt.zero_grad()
        rate.step()
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    """All parameters by name, copied."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
