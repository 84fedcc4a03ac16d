"""Weights beside other weights: low-rank changes, magnitudes, scales of integers, weights that a network makes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from tests.zoo.awkward import vectors
from tests.zoo.case import Case
from tests.zoo.wrapped import ENDS, LINEAR, Between


class LoRA(Between):
    """Frozen bases; A and B one after the other, or multiplied and added to the base."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.merged = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(3, 16)), nn.Parameter(torch.zeros(16, 3))
        self.merged_A, self.merged_B = nn.Parameter(torch.randn(3, 16)), nn.Parameter(torch.zeros(16, 3))
        self.down, self.up = nn.Linear(16, 3, bias=False), nn.Linear(3, 16, bias=False)
        for layer in (self.base, self.merged):
            layer.requires_grad_(False)

    def inside(self, x: Tensor) -> Tensor:
        x = self.base(x) + F.linear(F.linear(x, self.lora_A), self.lora_B) * 2.0
        x = F.linear(x, self.merged.weight + 2.0 * self.merged_B @ self.merged_A).relu()
        return self.base(x) + self.up(self.down(F.dropout(x, 0.1, self.training)))


class DoRA(Between):
    """A magnitude an output and a direction that LoRA moves: by the weight, and as peft applies it to the results."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.base2 = nn.Linear(16, 16), nn.Linear(16, 16)
        self.lora_A, self.lora_B = nn.Linear(16, 3, bias=False), nn.Linear(3, 16, bias=False)
        self.a, self.b = nn.Parameter(torch.randn(3, 16)), nn.Parameter(torch.zeros(16, 3))
        self.m, self.magnitude = nn.Parameter(torch.ones(16, 1)), nn.Parameter(torch.ones(16))
        for layer in (self.base, self.base2):
            layer.requires_grad_(False)

    def inside(self, x: Tensor) -> Tensor:
        numerator = self.base.weight + self.b @ self.a
        direction = numerator / numerator.norm(p=2, dim=1, keepdim=True)
        x = F.linear(x, self.m * direction, self.base.bias).relu()
        whole = self.base2.weight + self.lora_B.weight @ self.lora_A.weight
        scale = (self.magnitude / torch.linalg.norm(whole, dim=1).detach()).view(1, -1)
        return self.base2(x) + (scale - 1) * F.linear(x, self.base2.weight) + scale * self.lora_B(self.lora_A(x))


class Quantised(Between):
    """An int8 buffer with a trained scale an output, a zero point, and a weight cast to bfloat16 and back."""

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", (torch.arange(256).view(16, 16) % 11 - 5).to(torch.int8))
        self.scale, self.cast = nn.Parameter(torch.full((16, 1), 0.1)), nn.Linear(16, 16)

    def inside(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.codes.to(x.dtype) * self.scale).relu()
        return F.linear(x.bfloat16(), self.cast.weight.bfloat16(), self.cast.bias.bfloat16()).float()


class Hypernetwork(nn.Module):
    """A task's embedding becomes a layer's weights: by functional_call, and as a change of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks, self.make = nn.Embedding(4, 6), nn.Linear(6, 8 * 5 + 8)
        self.main, self.delta = nn.Linear(5, 8), nn.Linear(6, 64, bias=False)
        self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        z = self.tasks(task)
        weight, bias = self.make(z).split([40, 8], dim=-1)
        x = functional_call(self.main, {"weight": weight.view(8, 5), "bias": bias}, (x,)).relu()
        change = self.delta(z).view(8, 8)
        x = functional_call(self.second, {"weight": self.second.weight + change}, (x,))
        return self.head(x.relu())


class Distilled(Between):
    """A frozen teacher without gradient, a loss inside, a moving average that only a buffer keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.teacher = nn.Linear(16, 16), nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 5))
        self.teacher.requires_grad_(False)

    def inside(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        student = super().forward(x)
        with torch.no_grad():
            target = self.teacher(x)
        return F.kl_div(F.log_softmax(student, -1), F.softmax(target, -1), reduction="batchmean")


ADAPTED: dict[str, Case] = {
    "lora": Case(
        LoRA,
        lambda: vectors(4, 8),
        ENDS | {"base.weight": LINEAR, "merged*": LINEAR, "lora_?": LINEAR, "down.weight": LINEAR, "up.weight": LINEAR},
    ),
    "dora": Case(
        DoRA,
        lambda: vectors(4, 8),
        ENDS
        | {"base*.weight": LINEAR, "lora_?.weight": LINEAR, "a": LINEAR, "b": LINEAR}
        | {"m": "gain o- rms", "magnitude": "gain o rms"},
    ),
    "quantised": Case(Quantised, lambda: vectors(4, 8), ENDS | {"scale": "gain o- rms", "cast.weight": LINEAR}),
    "hypernetwork": Case(
        Hypernetwork,
        lambda: (vectors(4, 5), torch.tensor(2)),
        {
            "tasks.weight": "embedding xo colnorm",
            "make.weight": "hidden oi spectral 40 8",
            "make.bias": "bias o rms 40 8",
            "main.*": "unused",
            "delta.weight": LINEAR,
            "second.weight": LINEAR,
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "distilled": Case(
        Distilled,
        lambda: vectors(4, 8),
        ENDS | {"body.weight": LINEAR, "teacher.*": "unused"},
    ),
}
