"""Rules that large families need, each on the smallest net that has the matter: the rows of one forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from tests.zoo.test_zoo import said

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A stem, a forward over bare parameters, and a head."""

    def __init__(self, forward: Forward, shapes: dict[str, tuple[int, ...]], width: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(width, 5)
        self.body = forward
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 6, 8]."""
        return torch.as_tensor(self.head(self.body(self, self.stem(x).tanh())))


def one_key(net: Net, x: Tensor) -> Tensor:
    """Four queries and one key and value, picked by lists."""
    qkv = (x @ net.w).view(*x.shape[:2], 6, 4)
    q, k, v = (t.transpose(1, 2) for t in (qkv[..., :-2, :], qkv[..., [-2], :], qkv[..., [-1], :]))
    return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)


def stacked(net: Net, x: Tensor) -> Tensor:
    """Three matrices one under another, seen as a stack."""
    stack = net.w.view(3, 4, 8)
    return torch.cat([(x * x[:1] * i) @ stack[i].T for i in range(3)], dim=-1)


def two_axes(net: Net, x: Tensor) -> Tensor:
    """A gain for every head and channel."""
    return (x.unflatten(-1, (2, 4)) * net.w).flatten(-2)


def through_depthwise(net: Net, x: Tensor) -> Tensor:
    """Two parts of one matrix, told apart behind a depthwise convolution."""
    y = nn.functional.conv1d((x @ net.w).mT, net.c, padding=1, groups=16).mT
    a, b = y.chunk(2, dim=-1)
    return a.sigmoid() * b


def scaled_channels(net: Net, x: Tensor) -> Tensor:
    """A depthwise convolution whose filters have one entry each."""
    return nn.functional.conv1d(x.mT, net.c, groups=8).mT


def bounded(net: Net, x: Tensor) -> Tensor:
    """A learned least value."""
    return torch.maximum(x, net.w)


def repeated_query(net: Net, x: Tensor) -> Tensor:
    """A learned query that is repeated for every sample and meets a matrix by einsum."""
    q = torch.einsum("bth,hd->btd", net.q.expand(x.shape[0], -1, -1), net.w)
    return (q @ x.mT).softmax(-1) @ x


def sines(net: Net, x: Tensor) -> Tensor:
    """A matrix of fixed sines."""
    places = torch.arange(6.0)[:, None] * torch.arange(1.0, 5.0)
    return x + places.sin() @ net.w


def from_zeros(net: Net, x: Tensor) -> Tensor:
    """A matrix that meets zeros first."""
    state = torch.zeros_like(x[:, 0])
    for step in x.unbind(1):
        state = (step + state @ net.w).tanh()
    return state


def summed(net: Net, x: Tensor) -> Tensor:
    """Two gates, each the sum of four outputs."""
    a, b = (x @ net.w).unflatten(-1, (2, 4)).sum(-1).chunk(2, dim=-1)
    return x * (a.sigmoid() * b.exp())


def biases_beside(net: Net, x: Tensor) -> Tensor:
    """Two biases that are joined and cut again."""
    first, second = torch.cat([net.a, net.b]).chunk(2)
    return (x + first).relu() + (x + second).tanh()


def place_of_a_token(net: Net, x: Tensor) -> Tensor:
    """The first place is the token's, and is added before it is joined."""
    return torch.cat([(net.a + net.p[:1]).expand(x.shape[0], 1, 8), x + net.p[1:]], dim=1)


def one_number(net: Net, x: Tensor) -> Tensor:
    """A scalar of shape [1]."""
    return x + net.w


def picked_gain(net: Net, x: Tensor) -> Tensor:
    """A table of which fixed places pick the factors."""
    return x * net.w[torch.tensor([2, 1, 0, 1, 2, 3])]


def scored_places(net: Net, x: Tensor) -> Tensor:
    """A table of distances, rows of which queries are multiplied with."""
    apart = torch.arange(6)[:, None] - torch.arange(6) + 5
    return (x @ x.mT + torch.einsum("bic,ijc->bij", x, net.w[apart])).softmax(-1) @ x


def rearranged(net: Net, x: Tensor) -> Tensor:
    """Places in another order have a table still."""
    order = (-x[..., :1]).argsort(1).expand(x.shape)
    return x.gather(1, order) + net.w


@pytest.mark.parametrize(
    ("forward", "width", "shapes", "rows"),
    [
        (one_key, 16, {"w": (8, 24)}, ["hidden io spectral 16 4 4"]),
        (stacked, 12, {"w": (12, 8)}, ["hidden oi spectral 4 4 4"]),
        (two_axes, 8, {"w": (2, 4)}, ["gain oo rms"]),
        (through_depthwise, 8, {"w": (8, 16), "c": (16, 1, 3)}, ["hidden io spectral 8 8", "depthwise bik rownorm"]),
        (scaled_channels, 8, {"c": (8, 1, 1)}, ["depthwise bik rownorm"]),
        (bounded, 8, {"w": (8,)}, ["bias o rms"]),
        (repeated_query, 8, {"q": (1, 3, 8), "w": (8, 8)}, ["token -xo rms", "hidden io spectral"]),
        (sines, 8, {"w": (4, 8)}, ["input io spectral"]),
        (from_zeros, 8, {"w": (8, 8)}, ["hidden io spectral"]),
        (summed, 8, {"w": (8, 8)}, ["hidden io spectral 4 4"]),
        (biases_beside, 8, {"a": (8,), "b": (8,)}, ["bias o rms", "bias o rms"]),
        (place_of_a_token, 8, {"a": (1, 8), "p": (7, 8)}, ["token -o rms", "position xo colnorm"]),
        (one_number, 8, {"w": (1,)}, ["scalar - sign"]),
        (picked_gain, 8, {"w": (4, 8)}, ["position xo colnorm"]),
        (scored_places, 8, {"w": (11, 8)}, ["position xo colnorm"]),
        (rearranged, 8, {"w": (6, 8)}, ["position xo colnorm"]),
    ],
)
def test_rows(forward: Forward, width: int, shapes: dict[str, tuple[int, ...]], rows: list[str]) -> None:
    plan = normc.plan(Net(forward, shapes, width), torch.randn(2, 6, 8))
    found = {row.name: row for row in plan.rows}
    assert [said(found[name]) for name in shapes] == rows
    assert not any(row.fallback for row in plan.rows)


def test_windows_of_an_input_are_no_features() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.places = nn.Linear(4, 8), nn.Linear(8, 5), nn.Parameter(torch.randn(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.head((self.stem(x.unfold(-1, 4, 4)) + self.places).relu()))

    plan = normc.plan(Windows(), torch.randn(2, 12))
    assert [said(row) for row in plan.rows if row.name == "places"] == ["position xo colnorm"]


class Masked(nn.Module):
    """A gated layer whose output is masked by what another layer computed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.both = nn.Linear(8, 16), nn.Linear(16, 1), nn.Linear(16, 24)
        self.down, self.head = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 8]."""
        x = self.stem(x)
        y = self.both(x).masked_fill(self.gate(x) > 0, 0.0)
        a, b = y.chunk(2, dim=-1)
        out: Tensor = self.head(x + self.down(a.sigmoid() * b))
        return out


def test_a_mask_that_weights_computed_does_not_end_the_blocks() -> None:
    row = normc.plan(Masked(), torch.randn(4, 8))["both.weight"]
    assert [(block.label, block.size) for block in row.blocks] == [("gate", 12), ("up", 12)]


class TimeDelay(nn.Module):
    """A linear layer's weight, seen as a convolution over three places (an x-vector's TDNN)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kernel, self.head = nn.Linear(4, 8), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, 4]."""
        weight = self.kernel.weight.view(16, 3, 8).transpose(1, 2)
        out: Tensor = self.head(F.conv1d(self.stem(x).mT, weight, self.kernel.bias).mT.relu())
        return out


def test_a_linear_weight_used_as_a_convolution_keeps_its_fan_in() -> None:
    row = normc.plan(TimeDelay(), torch.randn(2, 9, 4), strict=True)["kernel.weight"]
    assert (row.role, row.norm, row.fan_in, row.fan_out) == ("hidden", "spectral", 24, 16)
