"""timm: create_optimizer_v2 by its registry, its cosine schedule with warmup, its layer decay; a small ViT."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import normc
from benchmarks.hosts.host import Job, host
from benchmarks.hosts.plain import LR
from benchmarks.sweep.vision import importable_torchvision

NEEDS = ("timm", "torchvision")
LAYER_DECAY = 0.5


def _model() -> nn.Module:
    """A ViT of two layers and width 48 for images of 32 x 32 and ten classes, from one seed."""
    importable_torchvision()
    import timm

    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=10, **size)
    return model


def _batch(step: int) -> tuple[Tensor, Tensor]:
    """Eight images of noise on a ramp whose direction, one of ten, is the class: [8, 3, 32, 32] and long [8]."""
    draw = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 10, (8,), generator=draw)
    angle = labels * (torch.pi / 5)
    x, y = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="xy")
    ramp = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    return ramp[:, None] + torch.randn(8, 3, 32, 32, generator=draw), labels


def _rate(opt: torch.optim.Optimizer, job: Job) -> Any:
    from timm.scheduler import CosineLRScheduler

    return CosineLRScheduler(opt, job.steps, warmup_t=job.steps // 10, warmup_lr_init=0.01, t_in_epochs=False)


def _step(model: nn.Module, opt: torch.optim.Optimizer, step: int) -> None:
    pictures, labels = _batch(step)
    functional.cross_entropy(model(pictures), labels).backward()
    opt.step()
    opt.zero_grad()


def _trained(job: Job, decayed: bool) -> nn.Module:
    model = _model()
    from timm.optim import create_optimizer_v2

    from normc.integrations.timm import layer_decay, whole_model

    whole = layer_decay(LAYER_DECAY) if decayed else whole_model
    opt = create_optimizer_v2(model, "normc", lr=LR, weight_decay=0.1, param_group_fn=whole, compile=job.compiled)
    rate = _rate(opt, job)
    for step in job.begin(model, opt, rate):
        rate.step_update(step)
        _step(model, opt, step)
        job.keep(step, model, opt, rate)
    return model


def _layer(name: str, depth: int) -> int:
    """A ViT's layers by timm's recipe: 0 before the blocks, a block's place from 1 on, the head behind all."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return {"norm": depth, "head": depth + 1}.get(name.split(".")[0], 0)


def _plain(job: Job, decayed: bool) -> nn.Module:
    """lr by hand; where layers decay, each row's scale too."""
    model = _model()
    plan = normc.plan(model, _batch(0)[0])
    if decayed:
        depth = len(model.get_submodule("blocks"))  # type: ignore[arg-type]  # a Sequential
        for row in plan.rows:
            layer = _layer(row.name, depth)
            if layer <= depth:
                plan = plan.override(row.name, scale=LAYER_DECAY ** (depth + 1 - layer) * row.scale.formula)
    opt = normc.compile(model, plan=plan, lr=LR, compile=job.compiled)
    driver = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    rate = _rate(driver, job)
    for step in range(job.steps):
        rate.step_update(step)
        for group in opt.param_groups:
            group["lr"] = driver.param_groups[0]["lr"]
        _step(model, opt, step)
    return model


for _name, _what, _decayed in (("timm", "its cosine", False), ("timm-layer-decay", f"layer decay {LAYER_DECAY}", True)):
    host(_name, "timm's registry", "timm", NEEDS, _what, partial(_plain, decayed=_decayed))(
        partial(_trained, decayed=_decayed)
    )
