"""Patterns that were met in other libraries: small models written by hand, rows from what each model does."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.awkward import vectors
from tests.zoo.case import Case


class LayerNormCells(nn.Module):
    """An LSTM whose four gates are normalised together (torchaudio's RNN-T)."""

    def __init__(self) -> None:
        super().__init__()
        self.x2g, self.p2g = nn.Linear(6, 48, bias=False), nn.Linear(12, 48, bias=False)
        self.gates, self.cell, self.head = nn.LayerNorm(48), nn.LayerNorm(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, c = x.new_zeros(len(x), 12), x.new_zeros(len(x), 12)
        for step in x.unbind(1):
            i, f, g, o = self.gates(self.x2g(step) + self.p2g(h)).chunk(4, -1)
            c = self.cell(f.sigmoid() * c + i.sigmoid() * g.tanh())
            h = o.sigmoid() * c.tanh()
        return self.head(h)


class RelativeHeads(nn.Module):
    """Relative attention (speechbrain's conformer): q, k and v of each head lie together; two biases meet the query."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.in_proj, self.places = nn.Linear(6, 16), nn.Parameter(torch.randn(48, 16)), nn.Linear(16, 16)
        self.u, self.v = nn.Parameter(torch.zeros(2, 8)), nn.Parameter(torch.zeros(2, 8))
        self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, time, _ = x.shape
        q, k, v = F.linear(x, self.in_proj).view(batch, time, 2, 24).chunk(3, -1)
        sines = torch.arange(time * 16, dtype=x.dtype).view(time, 16).sin()
        p = self.places(sines).view(time, 2, 8)
        scores = torch.einsum("bqhd,bkhd->bhqk", q + self.u, k) + torch.einsum("bqhd,khd->bhqk", q + self.v, p)
        y = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        return self.head(x + self.out(y.flatten(2)))


class Res2Net(nn.Module):
    """Channels in four parts, each convolved with the result of the one before it (ECAPA-TDNN)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.last = nn.Conv1d(6, 16, 5), nn.Conv1d(16, 16, 1), nn.Conv1d(16, 16, 1)
        self.parts, self.head = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=1) for _ in range(3)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.mT).relu()
        kept, *rest = self.first(x).chunk(4, 1)
        outs = [kept]
        for part, conv in zip(rest, self.parts, strict=True):
            outs.append(conv(part + outs[-1]).relu())
        return self.head((x + self.last(torch.cat(outs, 1))).mean(-1))


class EdgeNetwork(nn.Module):
    """Messages whose matrix a network makes for each edge (torch_geometric's NNConv), and a root weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(6, 8), nn.Linear(5, 12), nn.Linear(12, 64)
        self.root, self.head = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor, attributes: Tensor) -> Tensor:
        x = self.stem(x).relu()
        matrices = self.second(self.first(attributes).relu()).view(-1, 8, 8)
        messages = (x[edges[0], None] @ matrices).squeeze(1)
        return self.head((x @ self.root + torch.zeros_like(x).index_add(0, edges[1], messages)).relu())


class Relations(nn.Module):
    """A matrix a kind of edge, in blocks along the diagonal (torch_geometric's RGCNConv with num_blocks)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weight, self.head = nn.Linear(6, 8), nn.Parameter(torch.randn(3, 2, 4, 4)), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor, kinds: Tensor) -> Tensor:
        x = self.stem(x).relu()
        out = x
        for kind in range(3):
            own = kinds == kind
            sent = x[edges[0]] * own[:, None]
            parts = torch.einsum("nbi,bio->nbo", sent.view(-1, 2, 4), self.weight[kind])
            out = out.index_add(0, edges[1], parts.flatten(1))
        return self.head(out.relu())


class MaskedFlow(nn.Module):
    """A masked network (zuko's MAF): shift and scale of each feature lie beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 12), nn.Linear(12, 6)
        self.mask: Tensor
        self.register_buffer("mask", torch.ones(6, 12).tril().bool())

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        shift, scale = F.linear(h, self.mask * self.last.weight, self.last.bias).unflatten(-1, (3, 2)).unbind(-1)
        return ((x - shift) * (-scale).exp()).square().sum(-1) + scale.sum(-1)


class Latents(nn.Module):
    """Perceiver: learned latents read the input, and queries of the caller read the latents."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(5, 16))
        self.to_q, self.to_kv, self.to_out = nn.Linear(16, 8), nn.Linear(6, 16), nn.Linear(8, 16)
        self.ask_q, self.ask_kv, self.ask_out = nn.Linear(4, 8), nn.Linear(16, 16), nn.Linear(8, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        z = self.latents.expand(len(x), -1, -1)
        k, v = self.to_kv(x).chunk(2, -1)
        z = z + self.to_out(F.scaled_dot_product_attention(self.to_q(z), k, v))
        k, v = self.ask_kv(z).chunk(2, -1)
        asked = queries.expand(len(x), -1, -1)
        return self.head(asked + self.ask_out(F.scaled_dot_product_attention(self.ask_q(asked), k, v)))


class ForcedNorm(nn.Module):
    """EDM2: stored weights are normalised while it trains, then once more where they are used; gains are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(12, 6)), nn.Parameter(torch.randn(12, 12))
        self.last, self.gain = nn.Parameter(torch.randn(3, 12)), nn.Parameter(torch.zeros(()))

    def use(self, weight: Tensor, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                weight.copy_(F.normalize(weight, dim=1))
        return F.linear(x, F.normalize(weight, dim=1) / weight.shape[1] ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.use(self.first, x)) / 0.596
        h = (h + self.use(self.second, F.silu(h) / 0.596)) / 2**0.5
        return self.use(self.last, h) * self.gain


class AuxiliaryParts(nn.Module):
    """WaveRNN: features in four parts, each given to another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv1d(5, 8, 1), nn.Conv1d(8, 8, 1)
        self.rnn, self.first = nn.GRU(2 + 2, 6, batch_first=True), nn.Linear(6 + 2, 6)
        self.second, self.third = nn.Linear(6 + 2, 6), nn.Linear(6 + 2, 3)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        a, b, c, d = self.mix(self.conv(features.mT).relu()).mT.chunk(4, -1)
        h, _ = self.rnn(torch.cat([x, a], -1))
        h = self.first(torch.cat([h, b], -1)).relu()
        h = self.second(torch.cat([h, c], -1)).relu()
        return self.third(torch.cat([h, d], -1))


def _graph() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return vectors(7, 6), torch.randint(0, 7, (2, 20), generator=draw)


def _kinds() -> Tensor:
    return torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(1))


_BIAS = {"*bias": "bias o rms"}

SHELVES: dict[str, Case] = {
    "layer-norm-lstm": Case(
        LayerNormCells,
        lambda: vectors(2, 4, 6),
        {
            "x2g.weight": "input oi spectral 12 12 12 12",
            "p2g.weight": "hidden oi spectral 12 12 12 12",
            "gates.weight": "gain o rms 12 12 12 12",
            "gates.bias": "bias o rms 12 12 12 12",
            "*.weight": "gain o rms",
            "head.weight": "output oi sign",
            **_BIAS,
        },
    ),
    "relative-heads": Case(
        RelativeHeads,
        lambda: vectors(2, 5, 6),
        {
            "stem.weight": "input oi spectral",
            "in_proj": "hidden oi spectral ~16 ~16 ~16",
            "places.weight": "input oi spectral",
            "[uv]": "bias oo rms",
            "out.weight": "hidden oi spectral",
            "head.weight": "output oi sign",
            **_BIAS,
        },
    ),
    "res2net": Case(
        Res2Net,
        lambda: vectors(2, 12, 6),
        {
            "stem.weight": "input oik spectral",
            "first.weight": "hidden oik spectral 4 4 4 4",
            "first.bias": "bias o rms 4 4 4 4",
            "parts.*.weight": "hidden oik spectral",
            "last.weight": "hidden oik spectral",
            "head.weight": "output oi sign",
            **_BIAS,
        },
    ),
    "edge-network": Case(
        EdgeNetwork,
        lambda: (*_graph(), vectors(20, 5)),
        {
            "stem.weight": "input oi spectral",
            "first.weight": "input oi spectral",
            "second.weight": "hidden oi spectral",
            "root": "hidden io spectral",
            "head.weight": "output oi sign",
            **_BIAS,
        },
    ),
    "relations": Case(
        Relations,
        lambda: (*_graph(), _kinds()),
        {
            "stem.weight": "input oi spectral",
            "weight": "hidden bbio spectral",
            "head.weight": "output oi sign",
            **_BIAS,
        },
    ),
    "masked-flow": Case(
        MaskedFlow,
        lambda: vectors(5, 3),
        {
            "first.weight": "input oi spectral",
            "last.weight": "output oi sign ~3 ~3",
            "last.bias": "bias o rms ~3 ~3",
            **_BIAS,
        },
    ),
    "latents": Case(
        Latents,
        lambda: (vectors(2, 7, 6), vectors(4, 4)),
        {
            "latents": "token xo rms",
            "to_kv.weight": "input oi spectral 8 8",
            "ask_q.weight": "input oi spectral",
            "ask_kv.weight": "hidden oi spectral 8 8",
            "to_kv.bias": "bias o rms 8 8",
            "ask_kv.bias": "bias o rms 8 8",
            "to_*.weight": "hidden oi spectral",
            "ask_out.weight": "hidden oi spectral",
            "head.weight": "output oi sign",
            **_BIAS,
        },
    ),
    "forced-norm": Case(
        ForcedNorm,
        lambda: vectors(4, 6),
        {
            "first": "input oi spectral",
            "second": "hidden oi spectral",
            "last": "output oi sign",
            "gain": "scalar  sign",
        },
    ),
    "auxiliary-parts": Case(
        AuxiliaryParts,
        lambda: (vectors(2, 4, 2), vectors(2, 4, 5)),
        {
            "conv.weight": "input oik spectral",
            "mix.weight": "hidden oik spectral 2 2 2 2",
            "mix.bias": "bias o rms 2 2 2 2",
            "rnn.weight_*": "hidden oi spectral 6 6 6",
            "rnn.bias_*": "bias o rms 6 6 6",
            "first.weight": "hidden oi spectral",
            "second.weight": "hidden oi spectral",
            "third.weight": "output oi sign",
            **_BIAS,
        },
    ),
}
