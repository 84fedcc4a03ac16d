"""Hand-written modules that a rule by name or by shape gets wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, pixels, tokens


def vectors(*shape: int) -> Tensor:
    """Gaussian inputs."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class FusedAttention(nn.Module):
    """timm's attention: q, k and v by a reshape to (3, heads, width) and an unbind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.proj = nn.Linear(8, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, time, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, time, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, time, width)
        return self.head(x + self.proj(y))


class GroupedRotary(nn.Module):
    """Fewer k and v heads than q heads, rotary halves that are cut apart and joined again, attention by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = nn.Linear(8, 32), nn.Linear(32, 64), nn.Linear(32, 32)
        self.q_norm, self.head = nn.RMSNorm(8), nn.Linear(32, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, time, width = x.shape
        q, k, v = self.qkv(x).split([32, 16, 16], dim=-1)
        q = self.q_norm(q.view(batch, time, 4, 8).transpose(1, 2))
        k, v = (t.view(batch, time, 2, 8).transpose(1, 2).repeat_interleave(2, dim=1) for t in (k, v))
        angle = torch.arange(time, dtype=x.dtype)[:, None].expand(time, 4)
        q, k = self.rotate(q, angle), self.rotate(k, angle)
        weights = (q @ k.mT).softmax(dim=-1)
        return self.head(x + self.out((weights @ v).transpose(1, 2).reshape(batch, time, width)))

    def rotate(self, t: Tensor, angle: Tensor) -> Tensor:
        a, b = t.chunk(2, dim=-1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


class HeadLoop(nn.Module):
    """Attention as a Python loop over heads: the loop is no reason to cut the matrices into heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.head = nn.Linear(8, 32), nn.Linear(32, 96, bias=False), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.stem(x)).chunk(3, dim=-1)
        outs = []
        for start in range(0, 32, 8):
            a, b, c = (t[..., start : start + 8] for t in (q, k, v))
            outs.append((a @ b.mT).softmax(dim=-1) @ c)
        return self.head(torch.cat(outs, dim=-1))


class CrossAttention(nn.Module):
    """nn.MultiheadAttention with learned queries: its in_proj is split between two operands."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 6, 32))
        self.stem, self.attn, self.head = (
            nn.Linear(8, 32),
            nn.MultiheadAttention(32, 4, batch_first=True),
            nn.Linear(32, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q = self.queries.expand(x.shape[0], -1, -1)
        return self.head(q + self.attn(q, x, x, need_weights=False)[0])


class Modulation(nn.Module):
    """Adaptive layer norm: six vectors from one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cond, self.mod = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 192)
        self.one, self.two, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = self.stem(x)
        a, b, gate_one, d, e, gate_two = self.mod(F.silu(self.cond(c))).chunk(6, dim=-1)
        x = x + gate_one * self.one(self.modulate(F.layer_norm(x, (32,)), a, b))
        x = x + gate_two * self.two(self.modulate(F.layer_norm(x, (32,)), d, e))
        return self.head(F.layer_norm(x, (32,)))

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return x * (1 + scale) + shift


class RawWeights(nn.Module):
    """Bare parameters on either side of a product, one stored (in, out), one (out, in), and an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(16, 32))
        self.left = nn.Parameter(torch.randn(24, 32))
        self.heads = nn.Parameter(torch.randn(4, 24, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bi,io->bo", x, self.into).relu()
        x = (self.left @ x.T).T.relu()
        return torch.einsum("bi,hio->bho", x, self.heads)


class Experts(nn.Module):
    """A router and a stack of gated experts, batched."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Linear(8, 16), nn.Linear(16, 4, bias=False), nn.Linear(16, 5)
        self.up, self.down = nn.Parameter(torch.randn(4, 16, 48)), nn.Parameter(torch.randn(4, 24, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        score, chosen = self.gate(x).softmax(dim=-1).topk(2, dim=-1)
        weight = torch.zeros(x.shape[0], 4).scatter(1, chosen, score)
        a, b = torch.bmm(x.expand(4, *x.shape), self.up).chunk(2, dim=-1)
        y = torch.bmm(F.silu(a) * b, self.down)
        return self.head(x + torch.einsum("ebd,be->bd", y, weight))


class Convolutions(nn.Module):
    """Plain, grouped, depthwise and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.grouped, self.depthwise = nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 16, 3, groups=16)
        self.transposed, self.head = nn.ConvTranspose2d(16, 6, 2), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = self.transposed(self.depthwise(self.grouped(x)))
        return self.head(x.mean(dim=(2, 3)))


class Frozen(nn.Module):
    """A frozen base keeps its roles; what only a detached branch reads is unused."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.base, self.head = nn.Embedding(96, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.aside, self.never = nn.Linear(16, 3), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.zeros(()))
        self.base.requires_grad_(False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.base(self.embed(ids)).relu()
        return self.head(x) * self.scale.exp(), self.aside(x).detach()


AWKWARD: dict[str, Case] = {
    "fused-attention": Case(
        FusedAttention,
        lambda: vectors(2, 6, 8),
        {
            "stem.weight": "input oi spectral",
            "qkv.weight": "hidden oi spectral 32 32 32",
            "qkv.bias": "bias o rms 32 32 32",
            "proj.weight": "hidden oi spectral",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "grouped-rotary": Case(
        GroupedRotary,
        lambda: vectors(2, 6, 8),
        {
            "stem.weight": "input oi spectral",
            "qkv.weight": "hidden oi spectral 32 16 16",
            "qkv.bias": "bias o rms 32 16 16",
            "out.weight": "hidden oi spectral",
            "q_norm.weight": "gain o rms",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "head-loop": Case(
        HeadLoop,
        lambda: vectors(2, 6, 8),
        {
            "stem.weight": "input oi spectral",
            "qkv.weight": "hidden oi spectral 32 32 32",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "cross-attention": Case(
        CrossAttention,
        lambda: vectors(2, 5, 8),
        {
            "queries": "token -xo rms",
            "stem.weight": "input oi spectral",
            "attn.in_proj_weight": "hidden oi spectral 32 32 32",
            "attn.in_proj_bias": "bias o rms 32 32 32",
            "attn.out_proj.weight": "hidden oi spectral",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "modulation": Case(
        Modulation,
        lambda: (vectors(2, 6, 8), vectors(2, 6, 8)),
        {
            "stem.weight": "input oi spectral",
            "cond.weight": "input oi spectral",
            "mod.weight": "hidden oi spectral 32 32 32 32 32 32",
            "mod.bias": "bias o rms 32 32 32 32 32 32",
            "one.weight": "hidden oi spectral",
            "two.weight": "hidden oi spectral",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "raw-weights": Case(
        RawWeights,
        lambda: vectors(3, 16),
        {"into": "input io spectral", "left": "hidden oi spectral", "heads": "output oio sign"},
    ),
    "experts": Case(
        Experts,
        lambda: vectors(6, 8),
        {
            "stem.weight": "input oi spectral",
            "gate.weight": "router oi rownorm",
            "up": "hidden bio spectral 24 24",
            "down": "hidden bio spectral",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "convolutions": Case(
        Convolutions,
        lambda: pixels(12, 1),
        {
            "stem.weight": "input oikk spectral",
            "norm.weight": "gain o rms",
            "grouped.weight": "hidden oikk spectral 4 4 4 4",
            "depthwise.weight": "depthwise bikk rownorm",
            "transposed.weight": "hidden iokk spectral",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "frozen": Case(
        Frozen,
        lambda: tokens(),
        {
            "embed.weight": "embedding xo colnorm",
            "base.weight": "hidden oi spectral",
            "base.bias": "bias o rms",
            "head.weight": "output oi sign",
            "head.bias": "bias o rms",
            "scale": "scalar  sign",
            "aside.*": "unused",
            "never.*": "unused",
        },
    ),
}
