"""torch's schedulers, each against the numbers that it gives SGD, set by hand in the groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

import normc
from benchmarks.hosts.host import Job, host
from benchmarks.hosts.plain import LR, Schedule, task

SET = ("lr", "momentum")  # what a scheduler may change; OneCycleLR and CyclicLR change both


def _sequence(opt: Optimizer, steps: int) -> LRScheduler:
    rise = lr_scheduler.LinearLR(opt, 0.1, total_iters=steps // 10)
    fall = lr_scheduler.CosineAnnealingLR(opt, steps - steps // 10)
    return lr_scheduler.SequentialLR(opt, [rise, fall], [steps // 10])


SCHEDULES: dict[str, Schedule] = {
    "normc.schedule": normc.schedule,
    "LambdaLR": lambda opt, steps: lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + step)),
    "MultiStepLR": lambda opt, steps: lr_scheduler.MultiStepLR(opt, [steps // 3, 2 * steps // 3]),
    "ExponentialLR": lambda opt, steps: lr_scheduler.ExponentialLR(opt, 0.99),
    "LinearLR, then CosineAnnealingLR": _sequence,
    "CosineAnnealingWarmRestarts": lambda opt, steps: lr_scheduler.CosineAnnealingWarmRestarts(opt, steps // 4),
    "PolynomialLR": lambda opt, steps: lr_scheduler.PolynomialLR(opt, steps, power=2.0),
    "OneCycleLR": lambda opt, steps: lr_scheduler.OneCycleLR(opt, LR, steps + 1),
    "CyclicLR": lambda opt, steps: lr_scheduler.CyclicLR(opt, LR / 10, LR, steps // 4),
    "ReduceLROnPlateau": lambda opt, steps: lr_scheduler.ReduceLROnPlateau(opt, patience=3, threshold=0.1),
}


def _advance(rate: Any, loss: torch.Tensor) -> None:
    if isinstance(rate, lr_scheduler.ReduceLROnPlateau):
        rate.step(float(loss))
    else:
        rate.step()


def _scheduled(job: Job, file: str, schedule: Schedule) -> nn.Module:
    model = task().model()
    opt = normc.compile(model, lr=LR, compile=job.compiled)
    rate: Any = schedule(opt, job.steps)
    for step in job.begin(model, opt, rate, file=file):
        loss = task().loss(model, task().batch(step))
        loss.backward()
        opt.step()
        opt.zero_grad()
        _advance(rate, loss.detach())
        job.keep(step, model, opt, rate, file=file)
    return model


def _by_hand(job: Job, schedule: Schedule) -> nn.Module:
    model = task().model()
    opt = normc.compile(model, lr=LR, compile=job.compiled)
    driver = SGD([nn.Parameter(torch.zeros(1))], lr=LR, momentum=opt.param_groups[0]["momentum"])
    rate: Any = schedule(driver, job.steps)
    for step in range(job.steps):
        for group in opt.param_groups:
            group.update({name: driver.param_groups[0][name] for name in SET})
        loss = task().loss(model, task().batch(step))
        loss.backward()
        opt.step()
        opt.zero_grad()
        driver.step()
        _advance(rate, loss.detach())
    return model


def _all_by_hand(job: Job) -> nn.Module:
    return nn.ModuleList(_by_hand(job, schedule) for schedule in SCHEDULES.values())


@host("schedulers", "schedulers", "torch", ("transformers",), ", ".join(SCHEDULES), _all_by_hand)
def schedulers(job: Job) -> nn.Module:
    """A model for each of them."""
    runs = enumerate(SCHEDULES.values())
    return nn.ModuleList(_scheduled(job, f"half{place}.pt", schedule) for place, schedule in runs)
