"""LoRA: a GPT-2 that was trained on text learns code through added matrices of low rank; all else is frozen."""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor, nn

import normc
from benchmarks.workloads.families.gpt2 import Gpt2, sized
from benchmarks.workloads.language import language
from benchmarks.workloads.tokens import CACHE
from benchmarks.workloads.workload import Task, workload
from workloads.training import adamw

State = dict[str, Tensor]


class Adapted(nn.Module):
    """A frozen layer, plus B A x; B starts at zero."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) * layer.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        out: Tensor = self.layer(x) + (x @ self.a.T) @ self.b.T
        return out


@functools.cache
def base(quick: bool, device: str) -> State:
    """Return the weights of the GPT-2 of gpt2-text after AdamW; the full size is kept in out/workloads."""
    found: State
    file = CACHE / f"lora-base-{torch.__version__}-{device}.pt"
    if not quick and file.is_file():
        found = torch.load(file, map_location=device)
        return found
    task = sized(quick, 0, device, "text")
    model = task.model()
    optimizer = adamw(model, 1e-2 if quick else 3e-3)
    rate = normc.schedule(optimizer, task.steps)
    for step in range(task.steps):
        task.loss(model, task.batch(step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
    if quick:
        return model.state_dict()
    if not file.is_file():  # another process may have been first: all go on from the same weights
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_suffix(f".{os.getpid()}")
        torch.save(model.state_dict(), own)
        own.replace(file)
    found = torch.load(file, map_location=device)
    return found


@workload("lora-code", "LoRA on Python's standard library, of a GPT-2 trained on the King James Bible")
def on_code(quick: bool, seed: int, device: str) -> Task:
    """Rank 4 or 16, on every matrix of the blocks; code is in the tokens of the text."""
    width, depth, rank = (32, 2, 4) if quick else (256, 4, 16)
    state = base(quick, device)

    def build(vocabulary: int, context: int) -> nn.Module:
        model = Gpt2(vocabulary, context, width, depth)
        model.load_state_dict(state)
        model.requires_grad_(False)
        for parent in list(model.blocks.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(parent, name, Adapted(layer, rank))
        return model

    return language("code", build, quick, seed, device, "text")
