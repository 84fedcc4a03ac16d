"""One attention block, written in many ways: its four matrices get the same norms, fans and scales each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import normc

Heads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Query heads, of which `shared` each use one key and value head; a head's width; the stream's width."""

    groups: int
    shared: int
    width: int
    stream: int

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.groups * self.shared

    @property
    def outs(self) -> tuple[int, int, int]:
        """Outputs of q, k and v."""
        return self.heads * self.width, self.groups * self.width, self.groups * self.width


Projection = Callable[[nn.Module, Sizes], Callable[[Tensor], Heads]]
PROJECTIONS: dict[str, Projection] = {}


def projection(name: str) -> Callable[[Projection], Projection]:
    """One way to make q [batch, heads, time, width], k and v (fewer heads) from the stream."""

    def add(make: Projection) -> Projection:
        PROJECTIONS[name] = make
        return make

    return add


def made(m: nn.Module, name: str, *shape: int) -> nn.Parameter:
    """A parameter, registered."""
    found = nn.Parameter(torch.randn(*shape))
    m.register_parameter(name, found)
    return found


def headed(x: Tensor, s: Sizes) -> Tensor:
    """[batch, time, heads * width] as [batch, heads, time, width]."""
    return x.unflatten(-1, (-1, s.width)).transpose(1, 2)


@projection("three linears")
def three_linears(m: nn.Module, s: Sizes) -> Callable[[Tensor], Heads]:
    q, k, v = (made(m, f"a_{n}", out, s.stream) for n, out in zip("qkv", s.outs, strict=True))
    return lambda x: (headed(F.linear(x, q), s), headed(F.linear(x, k), s), headed(F.linear(x, v), s))


@projection("one linear, split")
def one_linear(m: nn.Module, s: Sizes) -> Callable[[Tensor], Heads]:
    w = made(m, "a_qkv", sum(s.outs), s.stream)

    def project(x: Tensor) -> Heads:
        q, k, v = F.linear(x, w).split(s.outs, dim=-1)
        return headed(q, s), headed(k, s), headed(v, s)

    return project


@projection("stored (in, out), sliced")
def stored_other_way(m: nn.Module, s: Sizes) -> Callable[[Tensor], Heads]:
    w = made(m, "a_qkv", s.stream, sum(s.outs))
    a, b = s.outs[0], s.outs[0] + s.outs[1]

    def project(x: Tensor) -> Heads:
        y = x @ w
        return headed(y[..., :a], s), headed(y[..., a:b], s), headed(y[..., b:], s)

    return project


@projection("einsum with heads in the weight")
def einsum(m: nn.Module, s: Sizes) -> Callable[[Tensor], Heads]:
    q = made(m, "a_q", s.heads, s.stream, s.width)
    k, v = made(m, "a_k", s.stream, s.groups, s.width), made(m, "a_v", s.groups, s.width, s.stream)

    def project(x: Tensor) -> Heads:
        return (
            torch.einsum("btd,hdk->bhtk", x, q),
            torch.einsum("dgk,btd->bgtk", k, x),
            torch.einsum("gkd,btd->bgtk", v, x),
        )

    return project


@projection("grouped by key head, each group its q, k and v")
def interleaved(m: nn.Module, s: Sizes) -> Callable[[Tensor], Heads]:
    w = made(m, "a_qkv", sum(s.outs), s.stream)

    def project(x: Tensor) -> Heads:
        y = F.linear(x, w).view(*x.shape[:2], s.groups, s.shared + 2, s.width)
        q, k, v = y[..., :-2, :], y[..., -2, :], y[..., -1, :]
        return q.flatten(2, 3).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    return project


@projection("1x1 convolution over time")
def convolution(m: nn.Module, s: Sizes) -> Callable[[Tensor], Heads]:
    w = made(m, "a_qkv", sum(s.outs), s.stream, 1)

    def project(x: Tensor) -> Heads:
        q, k, v = F.conv1d(x.mT, w).split(s.outs, dim=1)
        return tuple(t.unflatten(1, (-1, s.width)).mT for t in (q, k, v))

    return project


@projection("parameters joined into one operand")
def joined(m: nn.Module, s: Sizes) -> Callable[[Tensor], Heads]:
    q, k, v = (made(m, f"a_{n}", out, s.stream) for n, out in zip("qkv", s.outs, strict=True))

    def project(x: Tensor) -> Heads:
        parts = F.linear(x, torch.cat([q, k, v])).split(s.outs, dim=-1)
        a, b, c = (headed(part, s) for part in parts)
        return a, b, c

    return project


@projection("rotary by halves")
def rotary(m: nn.Module, s: Sizes) -> Callable[[Tensor], Heads]:
    plain = one_linear(m, s)

    def turned(t: Tensor) -> Tensor:
        angle = torch.arange(t.shape[-2])[:, None] / 10 ** torch.arange(s.width // 2)
        a, b = t.chunk(2, dim=-1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)

    def project(x: Tensor) -> Heads:
        q, k, v = plain(x)
        return turned(q), turned(k), v

    return project


@projection("under checkpointing")
def checkpointed(m: nn.Module, s: Sizes) -> Callable[[Tensor], Heads]:
    plain = three_linears(m, s)

    def project(x: Tensor) -> Heads:
        found: Heads = checkpoint(plain, x, use_reentrant=False)
        return found

    return project


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The fused op, key heads shared."""
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Product, softmax, product, key heads repeated."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same with letters; key heads expanded as a view."""
    batch, heads, time, width = q.shape
    k, v = (t[:, :, None].expand(batch, t.shape[1], heads // t.shape[1], time, width).flatten(1, 2) for t in (k, v))
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(dim=-1)
    return torch.einsum("bhqk,bhkd->bhqd", scores, v)


MIXES = {"sdpa": sdpa, "by hand": by_hand, "einsum": by_einsum}


class Net(nn.Module):
    """A stem, one attention block around a residual stream, a head."""

    def __init__(self, form: str, mix: str, sizes: Sizes, out_by_heads: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, sizes.stream), nn.Linear(sizes.stream, 5)
        self.project, self.mix, self.sizes = PROJECTIONS[form](self, sizes), MIXES[mix], sizes
        shape = (sizes.heads, sizes.width, sizes.stream) if out_by_heads else (sizes.stream, sizes.outs[0])
        self.a_out = nn.Parameter(torch.randn(*shape))
        self.out_by_heads = out_by_heads

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.mix(*self.project(x))
        if self.out_by_heads:
            out = torch.einsum("bhtk,hkd->btd", y, self.a_out)
        else:
            out = F.linear(y.transpose(1, 2).flatten(2), self.a_out)
        found: Tensor = self.head(x + out)
        return found


def matrices(net: Net) -> list[tuple[str, str, int, int, float]]:
    """Role, norm, fan-out, fan-in and scale of every independent matrix of the block."""
    found = []
    for row in normc.plan(net, torch.randn(2, 6, 3), recipe="uscion", strict=True).rows:
        if row.name.startswith("a_"):
            for (fan_out, fan_in), scale in zip(row.block_fans, row.scale.per_block, strict=True):
                found.append((row.role, row.norm, fan_out, fan_in, round(scale, 9)))
    return sorted(found)


@pytest.mark.parametrize("form", sorted(PROJECTIONS))
@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    mix=st.sampled_from(sorted(MIXES)),
    groups=st.sampled_from([1, 2, 3]),
    shared=st.sampled_from([1, 2, 4]),
    width=st.sampled_from([4, 6, 8]),
    stream=st.sampled_from([8, 10, 24]),
    out_by_heads=st.booleans(),
)
def test_attention_in_another_form_has_the_same_matrices(
    form: str, mix: str, groups: int, shared: int, width: int, stream: int, out_by_heads: bool
) -> None:
    sizes = Sizes(groups, shared, width, stream)
    q, k, v = sizes.outs
    fans = [(q, stream), (k, stream), (v, stream), (stream, q)]
    wanted = sorted(("hidden", "spectral", out, into, round(3 * (out / into) ** 0.5, 9)) for out, into in fans)
    assert matrices(Net(form, mix, sizes, out_by_heads)) == wanted
