"""A small model, and its parameters over ranks in several ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import normc

IDS = torch.zeros(2, 5, dtype=torch.long)


class Small(nn.Module):
    """A table, q, k and v in one matrix, experts, a layer, gains and biases; sizes that ranks don't divide."""

    def __init__(self, width: int = 12, vocabulary: int = 11) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.norm = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
        self.experts = nn.Parameter(0.1 * torch.randn(4, width, width))
        self.qkv, self.up, self.head = nn.Linear(width, 3 * width), nn.Linear(width, 20), nn.Linear(20, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, time] -> logits."""
        q, k, v = self.qkv(self.norm(self.table(ids))).chunk(3, -1)
        x = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + torch.einsum("btw,eow->bteo", x, self.experts).relu().sum(2)
        out: Tensor = self.head(self.up(x).relu())
        return out


# By name: the mesh, and the placements of a parameter with so many axes.
LAYOUTS: dict[str, tuple[tuple[int, ...], Any]] = {
    "rows": ((-1,), lambda axes: [Shard(0)]),
    "columns": ((-1,), lambda axes: [Shard(min(1, axes - 1))]),
    "copies": ((-1,), lambda axes: [Replicate()]),
    "hybrid": ((2, -1), lambda axes: [Replicate(), Shard(0)]),
    "both": ((2, -1), lambda axes: [Shard(0), Shard(min(1, axes - 1))]),
}


def lay_out(model: nn.Module, layout: str | None) -> dict[str, Tensor]:
    """Replace a model's parameters by distributed ones, if there is a layout; return them by name."""
    if layout is None:
        return dict(model.named_parameters())
    shape, placed = LAYOUTS[layout]
    ranks = torch.distributed.get_world_size()
    mesh = init_device_mesh("cpu", tuple(ranks // 2 if size < 0 and len(shape) > 1 else ranks if size < 0 else size
                                         for size in shape))  # fmt: skip
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                own = distribute_tensor(parameter.detach(), mesh, placed(parameter.dim()))
                module._parameters[name] = nn.Parameter(own)
    return dict(model.named_parameters())


def gradients(model: nn.Module, step: int, missing: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Whole numbers, the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    drawn = {name: torch.randint(-4, 5, p.shape, generator=generator).float() for name, p in model.named_parameters()}
    return {name: grad for name, grad in drawn.items() if name not in missing}


def give(members: dict[str, Tensor], grads: dict[str, Tensor], add: bool = False) -> None:
    """Set gradients, distributed as their parameters are; `add` to those that are there."""
    for name, parameter in members.items():
        grad = grads.get(name)
        if grad is not None and isinstance(parameter, DTensor):
            grad = distribute_tensor(grad, parameter.device_mesh, parameter.placements)
        if add and grad is not None and parameter.grad is not None:
            parameter.grad += grad
        else:
            parameter.grad = grad


def whole(tensor: Tensor) -> Tensor:
    """A copy of all of it, on every rank."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def optimizer(model: nn.Module, plan: normc.NormPlan, **options: Any) -> normc.Optimizer:
    """Uncompiled, as all steps here."""
    return normc.compile(model, plan=plan, lr=0.01, compile=False, **options)
