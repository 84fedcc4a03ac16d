"""PEFT: LoRA on a frozen base, trained by HF Trainer, which saves and loads the adapter alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.hosts.host import Job, host
from benchmarks.hosts.plain import loop, task
from benchmarks.hosts.runs.trainer import NEEDS, loss_of_tokens, trained, warm_cosine


def adapted() -> nn.Module:
    """The task's model, frozen, with LoRA of rank 4 beside every product of its blocks."""
    from peft import LoraConfig, get_peft_model

    base: Any = task().model()
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    model: nn.Module = get_peft_model(base, config)
    return model


def _plain(job: Job) -> nn.Module:
    return loop(job.steps, compiled=job.compiled, clip=1.0, schedule=warm_cosine, loss=loss_of_tokens, made=adapted)


@host("peft", "PEFT LoRA in HF Trainer", "peft", (*NEEDS, "peft"), "frozen base, clip 1", _plain)
def lora(job: Job) -> nn.Module:
    """The adapter alone learns."""
    return trained(job, adapted())
