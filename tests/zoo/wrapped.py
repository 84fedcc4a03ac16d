"""Weights that are made of others before they meet an activation, and calls that hide what they do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, weight_norm
from torch.utils.checkpoint import checkpoint

from tests.zoo.awkward import vectors
from tests.zoo.case import Case

LINEAR = "hidden oi spectral"
ENDS = {"stem.weight": "input oi spectral", "head.weight": "output oi sign", "*bias": "bias o rms"}


class Between(nn.Module):
    """A stem and a head; `inside` is what stands between them, 16 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inside(self.stem(x).relu()).relu())

    def inside(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class WeightNorm(Between):
    """By hook, by parametrization, and of a convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.old, self.new = weight_norm(nn.Linear(16, 16)), parametrizations.weight_norm(nn.Linear(16, 16))
        self.conv = weight_norm(nn.Conv1d(16, 16, 3, padding=1))

    def inside(self, x: Tensor) -> Tensor:
        return self.conv(self.new(self.old(x).relu()).relu().T[None])[0].T


class Symmetric(nn.Module):
    """The upper triangle, mirrored."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


class Skew(nn.Module):
    """x minus its transpose."""

    def forward(self, x: Tensor) -> Tensor:
        a = x.tril(-1)
        return a - a.mT


class Masked(nn.Module):
    """Some weights pruned."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.arange(256).view(16, 16) % 3 > 0).float())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


class Gram(nn.Module):
    """Positive semidefinite, of low rank."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :4] @ x[:, :4].T


class Exponential(nn.Module):
    """Orthogonal, by the exponential of a skew matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.matrix_exp(x)


class Parametrized(Between):
    """torch's parametrizations, one upon another too."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(16, 16) for _ in range(5)]
        kinds_of: list[list[type[nn.Module]]] = [[Symmetric], [Skew], [Masked], [Gram], [Skew, Exponential]]
        for layer, kinds in zip(layers, kinds_of, strict=True):
            for kind in kinds:
                parametrize.register_parametrization(layer, "weight", kind())
        self.layers = nn.ModuleList(layers)

    def inside(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


class Straight(torch.autograd.Function):
    """A product with the signs of the weights, whose gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.sign().t() + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grads[0] @ weight, grads[0].t() @ x, grads[0].sum(0)


class Functions(Between):
    """An autograd.Function, checkpoints of both kinds, and the other way to write straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.binary, self.ternary = nn.Linear(16, 16), nn.Linear(16, 16)
        self.one, self.two = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16)), nn.Linear(16, 16)

    def inside(self, x: Tensor) -> Tensor:
        x = Straight.apply(x, self.binary.weight, self.binary.bias)
        w = self.ternary.weight
        scale = w.abs().mean().clamp(min=1e-5)
        quantised = w + ((w / scale).round().clamp(-1, 1) * scale - w).detach()
        x = F.linear(x, quantised, self.ternary.bias)
        x = x + checkpoint(self.one, x, use_reentrant=False)
        return x + checkpoint(self.two, x, use_reentrant=True)


class Containers(Between):
    """Parameters in a list and a dictionary; one matrix used as two layers, one vector as a gain and a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(nn.Parameter(torch.randn(16, 16)) for _ in range(2))
        self.table = nn.ParameterDict({"out": nn.Parameter(torch.randn(16, 16)), "scale": torch.ones(16)})
        self.both = nn.Parameter(torch.ones(16))

    def inside(self, x: Tensor) -> Tensor:
        for w in self.matrices:
            x = torch.addmm(self.both, x, w).tanh()
        x = torch.mm(x, self.table["out"].t()) * self.table["scale"]
        return torch.mm(x * self.both, self.table["out"].t())


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 20))
        self.hidden_bias, self.bias = nn.Parameter(torch.zeros(12)), nn.Parameter(torch.zeros(20))
        self.middle = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(torch.sigmoid(F.linear(x, self.weight, self.hidden_bias)))
        return F.linear(h.sigmoid(), self.weight.t(), self.bias)


class Products(Between):
    """Two matrices multiplied before they meet x, on either side, three in a chain, and an einsum of three operands."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(6, 16))
        self.u1, self.u2, self.u3 = (nn.Parameter(torch.randn(16, 16)) for _ in range(3))
        self.a, self.b = nn.Parameter(torch.randn(16, 4)), nn.Parameter(torch.randn(4, 16))
        self.c, self.d = nn.Parameter(torch.randn(16, 4)), nn.Parameter(torch.randn(4, 16))
        self.kq, self.kk = nn.Parameter(torch.randn(16, 4)), nn.Parameter(torch.randn(16, 4))

    def inside(self, x: Tensor) -> Tensor:
        x = (x @ (self.w1 @ self.w2)).relu()
        x = F.linear(x, self.u1 @ self.u2 @ self.u3).relu()
        x = torch.einsum("bi,ir,ro->bo", x, self.a, self.b).relu()
        x = F.linear(x, torch.einsum("or,ri->oi", self.c, self.d)).relu()
        return (x @ self.kq @ self.kk.T).relu()


WRAPPED: dict[str, Case] = {
    "weight-norm": Case(
        WeightNorm,
        lambda: vectors(4, 8),
        ENDS
        | {"old.weight_v": LINEAR, "old.weight_g": "gain o- rms", "new.*0": "gain o- rms", "new.*1": LINEAR}
        | {"conv.weight_v": "hidden oik spectral", "conv.weight_g": "gain o-- rms"},
    ),
    # A matrix that stands as itself and transposed may be read either way. The exponential of a skew matrix moves no
    # faster than the matrix does, in the spectral norm.
    "parametrized": Case(Parametrized, lambda: vectors(4, 8), ENDS | {"layers.*.original": LINEAR}),
    "functions": Case(
        Functions,
        lambda: vectors(4, 8),
        ENDS | {"*ary.weight": LINEAR, "one.0.weight": "gain o rms", "one.1.weight": LINEAR, "two.weight": LINEAR},
    ),
    # `both` is added to one product and multiplied with another; both want the RMS norm.
    "containers": Case(
        Containers,
        lambda: vectors(4, 8),
        ENDS
        | {"matrices.*": "hidden io spectral", "table.out": LINEAR, "table.scale": "gain o rms"}
        | {"both": "bias o rms"},
    ),
    # The first use's fan-in is the last use's fan-out. As an output it is read the way the last one reads it.
    "tied-autoencoder": Case(
        TiedAutoencoder,
        lambda: vectors(4, 20),
        {"weight": "output io sign", "*bias": "bias o rms", "middle.weight": LINEAR},
    ),
    "products": Case(
        Products,
        lambda: vectors(4, 8),
        ENDS
        | {"w?": "hidden io spectral", "u?": LINEAR, "a": "hidden io spectral", "b": "hidden io spectral"}
        | {"c": LINEAR, "d": LINEAR, "kq": "hidden io spectral", "kk": LINEAR},
    ),
}
