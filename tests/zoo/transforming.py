"""Transformers by hand: experts in Python, relative positions, prompts, queries, value embeddings, lambdas, pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, pixels, tokens

LINEAR, HEAD, BIAS = "hidden oi spectral", "output oi sign", {"*bias": "bias o rms"}
TEXT = {"embed.weight": "embedding xo colnorm", "head.weight": "output oi sign"}


def heads(x: Tensor, count: int = 4) -> Tensor:
    """[batch, time, width] as [batch, heads, time, width of a head]."""
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """The other way."""
    return x.transpose(1, 2).flatten(2)


class TransformerXL(nn.Module):
    """Relative positions: a projected table of sines, two vectors a head added to the queries, then a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(96, 16), nn.Linear(16, 96)
        self.qkv, self.r, self.o = (nn.Linear(16, n, bias=False) for n in (48, 16, 16))
        self.r_w_bias, self.r_r_bias = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4, 4))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        n = x.shape[1]
        place = torch.arange(n - 1, -1, -1.0)
        angle = torch.outer(place, 1 / (10000 ** (torch.arange(0.0, 16, 2.0) / 16)))
        r = self.r(torch.cat([angle.sin(), angle.cos()], dim=-1)).view(n, 4, 4)
        q, k, v = (t.view(*t.shape[:2], 4, 4) for t in torch.chunk(self.qkv(x), 3, dim=-1))
        ac = torch.einsum("bihd,bjhd->bijh", q + self.r_w_bias, k)
        bd = self.shift(torch.einsum("bihd,jhd->bijh", q + self.r_r_bias, r))
        attention = F.softmax((ac + bd) * 0.5, dim=2)
        return self.head(x + self.o(torch.einsum("bijh,bjhd->bihd", attention, v).flatten(2)))

    def shift(self, x: Tensor) -> Tensor:
        b, i, j, h = x.shape
        padded = torch.cat([torch.zeros(b, i, 1, h), x], dim=2).view(b, j + 1, i, h)
        return padded[:, 1:].view(b, i, j, h)


class MusicTransformer(nn.Module):
    """A learned vector a distance that queries score, then skewed; ALiBi's slopes; a temperature a head."""

    slopes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.er = nn.Embedding(96, 16), nn.Linear(16, 96), nn.Parameter(torch.randn(32, 4))
        self.q, self.k, self.v, self.o, self.qkv, self.out = (nn.Linear(16, n) for n in (16, 16, 16, 16, 48, 16))
        self.temperature = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("slopes", 2.0 ** -torch.arange(1.0, 5.0))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        n = x.shape[1]
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        scores = torch.matmul(q, self.er[-n:].transpose(0, 1))
        scores = F.pad(scores, (1, 0)).reshape(x.shape[0], 4, n + 1, n)[:, :, 1:]
        mask = torch.ones(n, n, dtype=torch.bool).triu(1)
        attention = ((q @ k.mT + scores) / 2).masked_fill(mask, float("-inf")).softmax(dim=-1)
        x = x + self.o(joined(attention @ v))
        q, k, v = (heads(t) for t in self.qkv(x).split(16, dim=-1))
        place = torch.arange(n)
        scores = (q @ k.mT) * self.temperature + self.slopes[:, None, None] * (place[None] - place[:, None])
        return self.head(x + self.out(joined(scores.masked_fill(mask, -1e9).softmax(dim=-1) @ v)))


class PromptTuning(nn.Module):
    """A frozen transformer; learned are a prompt before the tokens and a prefix of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pos, self.head = nn.Embedding(96, 16), nn.Embedding(40, 16), nn.Linear(16, 96)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.requires_grad_(False)
        self.prompt, self.prefix = nn.Parameter(torch.randn(5, 16)), nn.Parameter(torch.randn(2, 4, 3, 4))

    def forward(self, ids: Tensor) -> Tensor:
        b = ids.shape[0]
        x = torch.cat([self.prompt.unsqueeze(0).expand(b, -1, -1), self.embed(ids)], dim=1)
        x = x + self.pos(torch.arange(x.shape[1]))
        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        key, value = self.prefix.unsqueeze(1).expand(-1, b, -1, -1, -1)
        k, v = torch.cat([key, k], dim=2), torch.cat([value, v], dim=2)
        return self.head(x + self.o(joined(F.scaled_dot_product_attention(q, k, v))))


class ModdedGPT(nn.Module):
    """Value embeddings, residual lambdas, skips with weights, squared ReLU, a soft cap; the next two tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.values = nn.Embedding(96, 16), nn.ModuleList(nn.Embedding(96, 16) for _ in range(2))
        self.qkv_w, self.o_w = nn.Parameter(torch.randn(2, 3, 16, 16)), nn.Parameter(torch.randn(2, 16, 16))
        self.v_lambdas = nn.Parameter(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
        self.x_lambdas = nn.Parameter(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        self.skip_weights = nn.Parameter(torch.ones(1))
        self.up, self.down = (
            nn.ModuleList(nn.Linear(16, 32, bias=False) for _ in range(2)),
            nn.ModuleList(nn.Linear(32, 16, bias=False) for _ in range(2)),
        )
        self.mtp, self.head, self.head2 = (nn.Linear(n, m, bias=False) for n, m in ((32, 16), (16, 96), (16, 96)))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = x0 = F.rms_norm(self.embed(ids), (16,))
        skips: list[Tensor] = []
        for i in range(2):
            if i == 1:
                x = x + self.skip_weights[0] * skips.pop()
            x = self.x_lambdas[i, 0] * x + self.x_lambdas[i, 1] * x0
            u = F.rms_norm(x, (16,))
            q, k, v = F.linear(u, self.qkv_w[i].flatten(end_dim=1)).view(*ids.shape, 12, 4).chunk(3, dim=-2)
            v = self.v_lambdas[i, 0] * v + self.v_lambdas[i, 1] * self.values[i](ids).view_as(v)
            q, k = F.rms_norm(q, (4,)), F.rms_norm(k, (4,))
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(joined(y), self.o_w[i])
            x = x + self.down[i](self.up[i](F.rms_norm(x, (16,))).relu().square())
            skips.append(x)
        x = F.rms_norm(x, (16,))
        later = self.mtp(torch.cat([x, F.rms_norm(self.embed(ids.roll(-1, 1)), (16,))], dim=-1))
        return 15 * torch.tanh(self.head(x) / 15), self.head2(F.rms_norm(later, (16,)))


class DETR(nn.Module):
    """Learned queries and places by row and column; a class and a box for every query."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.transformer = nn.Conv2d(3, 16, 4, stride=4), nn.Transformer(16, 4, 1, 1, 32)
        self.query_pos = nn.Parameter(torch.rand(6, 16))
        self.row_embed, self.col_embed = nn.Parameter(torch.rand(8, 8)), nn.Parameter(torch.rand(8, 8))
        self.linear_class, self.box = nn.Linear(16, 5), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.backbone(x)
        height, width = h.shape[-2:]
        pos = torch.cat(
            [
                self.col_embed[:width].unsqueeze(0).repeat(height, 1, 1),
                self.row_embed[:height].unsqueeze(1).repeat(1, width, 1),
            ],
            dim=-1,
        ).flatten(0, 1).unsqueeze(1)  # fmt: skip
        queries = self.query_pos.unsqueeze(1).repeat(1, x.shape[0], 1)
        h = self.transformer(pos + 0.1 * h.flatten(2).permute(2, 0, 1), queries).transpose(0, 1)
        return {"logits": self.linear_class(h), "boxes": self.box(h).sigmoid()}


TORCH_TRANSFORMER = {
    "*.in_proj_weight": "hidden oi spectral 16 16 16",
    "*.in_proj_bias": "bias o rms 16 16 16",
    "*.out_proj.weight": LINEAR,
    "*.linear?.weight": LINEAR,
    "*.norm*.weight": "gain o rms",
}

TRANSFORMING: dict[str, Case] = {
    "transformer-xl": Case(
        TransformerXL,
        tokens,
        TEXT
        | {
            "qkv.weight": "hidden oi spectral 16 16 16",
            "r.weight": "input oi spectral",
            "o.weight": LINEAR,
            "r_?_bias": "bias oo rms",
            "head.bias": "bias o rms",
        },
    ),
    # er is scored by queries as keys are: one could call it a table of places. Only its last rows are read.
    "music-transformer": Case(
        MusicTransformer,
        tokens,
        TEXT
        | BIAS
        | {
            "er": LINEAR,
            "?.weight": LINEAR,
            "qkv.weight": "hidden oi spectral 16 16 16",
            "qkv.bias": "bias o rms 16 16 16",
            "out.weight": LINEAR,
            "temperature": "gain o-- rms",
        },
    ),
    # A prefix holds a vector for every head and place; that of keys and that of values are blocks.
    "prompt-tuning": Case(
        PromptTuning,
        tokens,
        TEXT
        | BIAS
        | {
            "pos.weight": "position xo colnorm",
            "prompt": "token xo rms",
            "prefix": "token boxo rms",
            "?.weight": LINEAR,
        },
    ),
    # qkv_w and o_w are stacks over layers; q, k and v are three blocks of one row each along axis 1.
    # The lambdas are numbers, one a layer and use.
    "modded-gpt": Case(
        ModdedGPT,
        tokens,
        TEXT
        | {
            "values.?.weight": "embedding xo colnorm",
            "qkv_w": "hidden booi spectral 1 1 1",
            "o_w": "hidden boi spectral",
            "?_lambdas": "scalar xx sign",
            "skip_weights": "scalar - sign",
            "up.?.weight": LINEAR,
            "down.?.weight": LINEAR,
            "mtp.weight": LINEAR,
            "head2.weight": HEAD,
        },
    ),
    "detr": Case(
        DETR,
        lambda: pixels(12),
        BIAS
        | TORCH_TRANSFORMER
        | {
            "backbone.weight": "input oikk spectral",
            "query_pos": "token xo rms",
            "*_embed": "position xo colnorm",
            "linear_class.weight": HEAD,
            "box.0.weight": LINEAR,
            "box.2.weight": HEAD,
        },
    ),
}
