"""Latents, slots, sets and pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.awkward import vectors
from tests.zoo.case import Case
from tests.zoo.other import BIAS, HEAD, LINEAR


class Perceiver(nn.Module):
    """Latents that read the inputs, a slot attention drawn from a learned Gaussian, outputs by learned queries."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.queries = nn.Parameter(torch.randn(4, 16)), nn.Parameter(torch.randn(1, 3, 16))
        self.stem, self.norm, self.to_q, self.to_kv = (
            nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 16, bias=False), nn.Linear(16, 32, bias=False),
        )  # fmt: skip
        self.mu, self.log_sigma = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.zeros(1, 1, 16))
        self.q, self.k, self.v, self.gru = (
            nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.GRUCell(16, 16),
        )  # fmt: skip
        self.decoder, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b = x.shape[0]
        z = self.latents.unsqueeze(0).expand(b, -1, -1)
        k, v = self.to_kv(x).chunk(2, dim=-1)
        z = z + F.scaled_dot_product_attention(self.to_q(self.norm(z)), k, v)
        slots = self.mu + self.log_sigma.exp() * torch.randn(b, 4, 16)
        k, v = self.k(z), self.v(z)
        for _ in range(2):
            attn = (self.q(slots) @ k.transpose(1, 2)).softmax(dim=1)
            updates = (attn / attn.sum(dim=-1, keepdim=True)) @ v
            slots = self.gru(updates.reshape(-1, 16), slots.reshape(-1, 16)).reshape(b, -1, 16)
        out, _ = self.decoder(self.queries.repeat(b, 1, 1), slots, slots)
        return self.head(out)


class SetTransformer(nn.Module):
    """Induced attention through learned points, pooling by a learned seed; torch's encoder and decoder after it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inducing = nn.Linear(6, 16), nn.Parameter(torch.randn(1, 3, 16))
        self.one, self.two = (nn.MultiheadAttention(16, 4, batch_first=True) for _ in range(2))
        self.transformer = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
        self.seed, self.head = nn.Parameter(torch.randn(1, 2, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        points = self.inducing.repeat(x.size(0), 1, 1)
        h = self.one(points, x, x)[0]
        x = self.two(x, h, h)[0]
        return self.head(self.transformer(x, self.seed.repeat(x.size(0), 1, 1)))


class Siamese(nn.Module):
    """Two inputs through one tower, a third through nn.Bilinear with them; the distance's weights; a log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.bilinear = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)), nn.Bilinear(8, 8, 12)
        self.distance, self.head = nn.Linear(8, 1), nn.Linear(12, 4)
        self.log_std, self.alpha = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.tensor(0.5))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y = self.tower(a), self.tower(b)
        mixed = self.alpha.sigmoid() * x + (1 - self.alpha.sigmoid()) * y
        mean = self.head(self.bilinear(mixed, y).relu())
        normal = torch.distributions.Normal(mean, self.log_std.exp().expand_as(mean), validate_args=False)
        return self.distance((x - y).abs()), mean, normal.log_prob(torch.zeros_like(mean)).sum(-1)


LATENTS: dict[str, Case] = {
    "perceiver": Case(
        Perceiver,
        lambda: vectors(2, 5, 6),
        BIAS
        | {
            "latents": "token xo rms",
            "queries": "token -xo rms",
            "stem.weight": "input oi spectral",
            "norm.weight": "gain o rms",
            "?.weight": LINEAR,
            "to_q.weight": LINEAR,
            "to_kv.weight": "hidden oi spectral 16 16",
            "mu": "token --o rms",
            "log_sigma": "state --o sign",
            "gru.weight_*": "hidden oi spectral 16 16 16",
            "gru.bias_*": "bias o rms 16 16 16",
            "decoder.in_proj_weight": "hidden oi spectral 16 16 16",
            "decoder.in_proj_bias": "bias o rms 16 16 16",
            "decoder.out_proj.weight": LINEAR,
            "head.weight": HEAD,
        },
    ),
    "set-transformer": Case(
        SetTransformer,
        lambda: vectors(2, 5, 6),
        BIAS
        | {
            "stem.weight": "input oi spectral",
            "inducing": "token -xo rms",
            "seed": "token -xo rms",
            "*in_proj_weight": "hidden oi spectral 16 16 16",
            "*in_proj_bias": "bias o rms 16 16 16",
            "*out_proj.weight": LINEAR,
            "*.linear?.weight": LINEAR,
            "*.norm*.weight": "gain o rms",
            "head.weight": HEAD,
        },
    ),
    "siamese": Case(
        Siamese,
        lambda: (vectors(3, 6), vectors(3, 6)),
        {
            "tower.0.weight": "input oi spectral",
            "tower.2.weight": LINEAR,
            "bilinear.weight": "hidden oii spectral",
            "distance.weight": HEAD,
            "distance.bias": "bias - rms",
            "*bias": "bias o rms",
            "head.weight": HEAD,
            "log_std": "state o sign",
            "alpha": "scalar  sign",
        },
    ),
}
