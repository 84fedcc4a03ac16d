"""Models whose forward calls functions of its own kind, asks about gradients, or returns an object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.zoo.awkward import vectors
from tests.zoo.byways import Build, Framed, framed


class Recomputed(Framed):
    """Checkpoints, with and without reentry, around a layer that reads a parameter of its own."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.layer, self.scale, self.reentrant = nn.Linear(12, 12), nn.Parameter(torch.ones(12)), reentrant

    def core(self, h: Tensor) -> Tensor:
        return checkpoint(lambda h: self.layer(h).tanh() * self.scale, h, use_reentrant=self.reentrant)


class Thresholded(torch.autograd.Function):
    """A custom function, which works in place on a copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        y = x.clone()
        y -= y.max(-1, keepdim=True)[0]
        return y.add_(w).clamp(min=-2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.flatten(0, -2).sum(0)


class Foreseeing(torch.autograd.Function):
    """A custom function that computes its gradients in its forward, from detached inputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_(), w.detach().requires_grad_()]
            out = (inputs[0] * inputs[1]).tanh()
            ctx.gradients = torch.autograd.grad(out.sum(), inputs)
        return out.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        one, other = ctx.gradients
        return one * grad, other


thresholded, foreseeing = Thresholded.apply, Foreseeing.apply


class Custom(Framed):
    """A custom function, called by the method of its class or by one that was bound when the module was imported."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.before, self.weight, self.function = nn.Linear(12, 12), nn.Parameter(torch.randn(12)), function

    def core(self, h: Tensor) -> Tensor:
        return self.function(self.before(h), self.weight)


class Sparing(Framed):
    """Spares itself a straight-through estimator where an activation needs no gradient."""

    def __init__(self, needs: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.encode, self.needs = nn.Linear(12, 12), needs
        self.codes: Tensor
        self.register_buffer("codes", torch.randn(8, 12))

    def core(self, h: Tensor) -> Tensor:
        z = self.encode(h)
        code = self.codes[(z.detach() @ self.codes.T).argmax(-1)]
        return z + (code - z).detach() if self.needs(z) else code


def gelu_of_sum(bias: Tensor, x: Tensor) -> Tensor:
    """Megatron's: adds a bias, then a GELU."""
    x = bias + x
    return x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))


class Scripted(Framed):
    """A scripted function that has run before: its profiled graph is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.bias = nn.Linear(12, 12, bias=False), nn.Parameter(torch.zeros(12))
        self.fused = torch.jit.script(gelu_of_sum)
        for _ in range(3):
            self.fused(self.bias, vectors(4, 5, 12)).sum().backward()

    def core(self, h: Tensor) -> Tensor:
        return self.fused(self.bias, self.up(h))


class Mapped(Framed):
    """torch.func: a layer called with other tensors, vmapped over a stack, and differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.stack = nn.Linear(12, 12), nn.Parameter(torch.randn(2, 12, 12))
        self.energy = nn.Linear(12, 1)

    def core(self, h: Tensor) -> Tensor:
        named = {name: 0.5 * parameter for name, parameter in self.layer.named_parameters()}
        h = torch.func.functional_call(self.layer, named, (h,)).tanh()
        h = torch.vmap(lambda w: h @ w)(self.stack).sum(0)
        force = torch.func.grad(lambda y: self.energy(y.tanh()).sum())(h)
        return h + force


class Answer:
    """What a forward may return: an object that keeps its tensors where only its attributes show them."""

    def __init__(self, mean: Tensor, more: dict[str, Tensor]) -> None:
        self.mean, self.more = mean, more


class Answering(Framed):
    """An object as the result, with tensors in it."""

    def __init__(self) -> None:
        super().__init__()
        self.deviation = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Answer:
        h = self.stem(x).relu()
        return Answer(self.head(h), {"deviation": self.deviation(h)})


class Distributed(Framed):
    """A torch.distributions object as the result."""

    def __init__(self) -> None:
        super().__init__()
        self.deviation = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        h = self.stem(x).relu()
        return torch.distributions.Independent(torch.distributions.Normal(self.head(h), self.deviation(h).exp()), 1)


class Complex(Framed):
    """A complex tensor as the result, and complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).relu()) + self.stem(x).to(torch.complex64) @ torch.view_as_complex(self.weight)


FUNCTIONS: dict[str, Build] = {
    "checkpointed": framed(Recomputed, False),
    "checkpointed, reentrant": framed(Recomputed, True),
    "asked for its gradient": framed(Sparing, lambda z: z.requires_grad),
    "asked for its function": framed(Sparing, lambda z: z.grad_fn is not None),
    "asked whether it is a leaf": framed(Sparing, lambda z: not z.is_leaf),
    "scripted": framed(Scripted),
    "custom function": framed(Custom, lambda x, w: Thresholded.apply(x, w)),
    "custom function, bound before": framed(Custom, thresholded),
    "custom function of gradients": framed(Custom, lambda x, w: Foreseeing.apply(x, w)),
    "custom function of gradients, bound before": framed(Custom, foreseeing),
    "mapped": framed(Mapped),
    "answering": framed(Answering),
    "distributed": framed(Distributed),
    "complex": framed(Complex),
}
