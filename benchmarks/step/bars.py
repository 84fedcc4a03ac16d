"""Contestants that need torch alone: torch's own Muon and AdamW, and two honest low bars."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step.contest import (
    DECAY,
    LR,
    MOMENTUM,
    Both,
    Contestant,
    Graphed,
    Problem,
    Runner,
    original,
)
from normc.backends.cpu import target

EXPRESS = (
    (8.2872, -23.5959, 17.3004),
    (4.1071, -2.9478, 0.5448),
    (3.9487, -2.9089, 0.5518),
    (3.3184, -2.4885, 0.5100),
    (2.3007, -1.6689, 0.4188),
)
SAFETY = 1.05


class Batched(torch.optim.Optimizer):
    """Muon in sixty lines: lists of tensors for what is elementwise, one batched product for all of one shape.

    `together=False` takes the products of one matrix at a time.
    """

    def __init__(self, params: list[nn.Parameter], dtype: torch.dtype, together: bool = True) -> None:
        super().__init__(params, {"lr": LR, "weight_decay": DECAY, "momentum": MOMENTUM})
        self.dtype, self.together = dtype, together

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # takes no closure
        """One step."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in weights]
            for p in weights:
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            moments = [self.state[p]["momentum_buffer"] for p in weights]
            torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, moments, group["momentum"])
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
            for index, weight in enumerate(weights):
                shapes[tuple(sorted(weight.shape)) if self.together else (index,)].append(index)
            for indices in shapes.values():
                tall = [ahead[i].shape[0] > ahead[i].shape[1] for i in indices]
                stack = torch.stack([ahead[i].mT if flip else ahead[i] for i, flip in zip(indices, tall, strict=True)])
                found = self._polar(stack).to(weights[0].dtype).unbind()
                steps = [x.mT if flip else x for x, flip in zip(found, tall, strict=True)]
                scales = [-group["lr"] * original(*weights[i].shape) for i in indices]
                torch._foreach_mul_(steps, scales)
                torch._foreach_add_([weights[i] for i in indices], steps)

    def _polar(self, x: Tensor) -> Tensor:
        x = (x / (SAFETY * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(self.dtype)
        for a, b, c in EXPRESS:
            gram = x @ x.mT
            gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            x = torch.baddbmm(x, gram, x, beta=a)
        return x


def torch_muon(given: Problem) -> Runner:
    """torch.optim.Muon."""
    muon = torch.optim.Muon(given.matrices, lr=LR, weight_decay=DECAY, momentum=MOMENTUM)
    both = Both(muon, given.rest)
    return Runner(both.step, both, given.matrices, original)


def graphed(build: Callable[[Problem], Runner]) -> Callable[[Problem], Runner]:
    """The same in a CUDA graph."""

    def made(given: Problem) -> Runner:
        runner = build(given)
        whole = Graphed(runner.optimizer)
        return Runner(whole.step, whole, runner.matrices, runner.scale)

    return made


def batched(given: Problem, dtype: torch.dtype | None = None) -> Runner:
    """The sixty lines, by default in bf16 where that is fast."""
    if dtype is None:
        fast = given.device.type == "cuda" or target("cpu") == "cpu:bf16"
        dtype = torch.bfloat16 if fast else torch.float32
    both = Both(Batched(given.matrices, dtype), given.rest)
    return Runner(both.step, both, given.matrices, original)


def one_by_one(given: Problem) -> Runner:
    """What torch.optim.Muon does, in float32: its bf16 products are slow on a CPU without instructions for them."""
    both = Both(Batched(given.matrices, torch.float32, together=False), given.rest)
    return Runner(both.step, both, given.matrices, original)


def all_adamw(given: Problem) -> Runner:
    """Fused AdamW for everything."""
    optimizer = torch.optim.AdamW(list(given.everything()), lr=1e-3, fused=True)
    return Runner(optimizer.step, optimizer, given.matrices)


BARS = (
    Contestant("torch.optim.Muon", "peer", "bf16, one polynomial 5 times", torch_muon),
    Contestant("torch.optim.Muon, CUDA graph", "bar", "as above, captured whole", graphed(torch_muon), ("cuda",)),
    Contestant("batched products, foreach", "bar", "sixty lines; bf16 where fast, else float32", batched),
    Contestant("one matrix at a time, float32", "bar", "torch.optim.Muon's way, in float32", one_by_one, ("cpu",)),
    Contestant("batched products, CUDA graph", "bar", "the sixty lines, captured", graphed(batched), ("cuda",)),
    Contestant("AdamW, fused", "scale", "for scale: no matrices are orthogonalised", all_adamw),
)
