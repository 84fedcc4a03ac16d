"""HF Trainer: as its arguments are, with accumulated gradients, and with torch_compile."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from benchmarks.hosts.host import Job, host
from benchmarks.hosts.plain import LR, ROWS, Windows, loop, task
from normc.integrations import hf
from workloads.tasks import Batch

NEEDS = ("transformers", "accelerate")


def trained(job: Job, model: nn.Module, **options: Any) -> nn.Module:
    """Train `model` by Trainer and return it; `options` are of TrainingArguments."""
    from transformers import Trainer, TrainingArguments

    arguments: dict[str, Any] = {
        "per_device_train_batch_size": ROWS,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
    }
    given = TrainingArguments(
        output_dir=str(job.folder), max_steps=job.steps, save_steps=job.half, use_cpu=True, **(arguments | options)
    )
    trainer = Trainer(
        model,
        given,
        train_dataset=Windows(job.steps),
        optimizer_cls_and_kwargs=hf.optimizer(lr=LR, compile=job.compiled),
    )
    trainer.train(resume_from_checkpoint=str(job.folder / f"checkpoint-{job.half}") if job.resume else None)
    return model


def warm_cosine(opt: Optimizer, steps: int) -> LRScheduler:
    """Trainer's schedule."""
    from transformers import get_scheduler

    rate: LRScheduler = get_scheduler("cosine", opt, num_warmup_steps=10, num_training_steps=steps)
    return rate


def loss_of_tokens(model: nn.Module, batch: Batch, number: int) -> Tensor:
    """The sum over a part's tokens by the number of the step's labels: so Trainer weighs what it accumulates."""
    counted = batch["labels"].numel() * number
    loss: Tensor = model(**batch, num_items_in_batch=counted).loss
    return loss


def _plain(job: Job, **options: Any) -> nn.Module:
    return loop(job.steps, compiled=job.compiled, clip=1.0, schedule=warm_cosine, loss=loss_of_tokens, **options)


def _plain_compiled(job: Job) -> nn.Module:
    return _plain(job, through=torch.compile)


@host("trainer", "HF Trainer", "transformers", NEEDS, "cosine, clip 1", _plain)
def trainer(job: Job) -> nn.Module:
    """Trainer's loop with its own scheduler and clipping."""
    return trained(job, task().model())


@host("trainer-accumulating", "HF Trainer", "transformers", NEEDS, "2 accumulated parts", partial(_plain, number=2))
def accumulating(job: Job) -> nn.Module:
    """Two parts a step."""
    return trained(job, task().model(), per_device_train_batch_size=ROWS // 2, gradient_accumulation_steps=2)


@host("trainer-compiled", "HF Trainer", "transformers", NEEDS, "torch_compile=True", _plain_compiled)
def compiled(job: Job) -> nn.Module:
    """The model compiled by Trainer."""
    return trained(job, task().model(), torch_compile=True)
