"""Mixers, and attention with relative positions over feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, pixels

ENDS = {"stem.weight": "input oi spectral", "head.weight": "output oi sign", "*bias": "bias o rms"}
CONVOLVED = ENDS | {"stem.weight": "input oikk spectral"}
PATCH = CONVOLVED | {"*norm*.weight": "gain o rms"}


class Mixer(nn.Module):
    """MLP-Mixer: one MLP over places, by a transpose, and one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1, self.norm2 = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16), nn.LayerNorm(16)
        self.tokens = nn.Sequential(nn.Linear(9, 12), nn.GELU(), nn.Linear(12, 9))
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(self.norm(x).mean(dim=1))


class Affine(nn.Module):
    """ResMLP's norm: a gain and a shift, nothing is divided."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class ResMLP(nn.Module):
    """A linear layer over places between affines, with layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.affine1, self.affine2 = nn.Conv2d(3, 16, 4, stride=4), Affine(16), Affine(16)
        self.linear_tokens, self.fc1, self.fc2 = nn.Linear(9, 9), nn.Linear(16, 32), nn.Linear(32, 16)
        self.ls1, self.ls2 = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        x = x + self.ls1 * self.linear_tokens(self.affine1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.ls2 * self.fc2(F.gelu(self.fc1(self.affine2(x))))
        return self.head(x.mean(1))


class GatedMLP(nn.Module):
    """gMLP: half of the channels, mixed over places, gates the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.proj_in = nn.Embedding(96, 16), nn.LayerNorm(16), nn.Linear(16, 48)
        self.gate_norm, self.spatial, self.proj_out = nn.LayerNorm(24), nn.Conv1d(6, 6, 1), nn.Linear(24, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        u, v = F.gelu(self.proj_in(self.norm(x))).chunk(2, dim=-1)
        x = x + self.proj_out(u * self.spatial(self.gate_norm(v)))
        return self.head(x.mean(1))


class BoTNet(nn.Module):
    """Attention over a feature map by 1x1 convolutions, with learned heights and widths that queries score."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.Conv2d(16, 48, 1), nn.BatchNorm2d(16)
        self.rel_h, self.rel_w = nn.Parameter(torch.randn(1, 4, 4, 1, 3)), nn.Parameter(torch.randn(1, 4, 4, 3, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.size()
        q, k, v = self.qkv(x).view(b, 3, 4, c // 4, -1).unbind(1)
        content = torch.matmul(q.permute(0, 1, 3, 2), k)
        position = (self.rel_h + self.rel_w).view(1, 4, c // 4, -1).permute(0, 1, 3, 2)
        attention = F.softmax(content + torch.matmul(position, q), dim=-1)
        y = torch.matmul(v, attention.permute(0, 1, 3, 2)).view(b, c, h, w)
        return self.head((x + self.norm(y)).mean((2, 3)))


class CoAtNet(nn.Module):
    """Relative attention: a bias for every head and offset, read at a constant index."""

    relative_index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.qkv = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16), nn.Linear(16, 48, bias=False)
        self.relative_bias_table = nn.Parameter(torch.zeros(25, 4))
        self.to_out, self.head = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.0)), nn.Linear(16, 10)
        place = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")).flatten(1)
        offset = (place[:, :, None] - place[:, None, :]) + 2
        self.register_buffer("relative_index", (offset[0] * 5 + offset[1]).flatten().unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        b, n, c = x.shape
        q, k, v = (t.view(b, n, 4, c // 4).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, dim=-1))
        dots = torch.matmul(q, k.transpose(-1, -2)) * 0.5
        bias = self.relative_bias_table.gather(0, self.relative_index.repeat(1, 4))
        dots = dots + bias.view(n, n, 4).permute(2, 0, 1).unsqueeze(0)
        out = torch.matmul(dots.softmax(dim=-1), v).transpose(1, 2).reshape(b, n, c)
        return self.head((x + self.to_out(out)).mean(1))


class LeViT(nn.Module):
    """Linear layers with batch norms, keys narrower than values, attention biases by an index along axis 1."""

    bias_idxs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.norm = (
            nn.Conv2d(3, 16, 4, stride=4),
            nn.Linear(16, 64, bias=False),
            nn.BatchNorm1d(64),
        )
        self.attention_biases = nn.Parameter(torch.zeros(4, 9))
        self.proj, self.head = nn.Linear(32, 16), nn.Linear(16, 10)
        place = torch.arange(9)
        row = (place[:, None] // 3 - place[None] // 3).abs()
        self.register_buffer("bias_idxs", row * 3 + (place[:, None] % 3 - place[None] % 3).abs())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        b, n, _ = x.shape
        qkv = self.qkv(x)
        qkv = self.norm(qkv.flatten(0, 1)).reshape_as(qkv)
        q, k, v = qkv.view(b, n, 4, -1).split([4, 4, 8], dim=3)
        q, k, v = q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        attn = (q @ k * 0.5 + self.attention_biases[:, self.bias_idxs]).softmax(dim=-1)
        x = x + self.proj(F.hardswish((attn @ v).transpose(1, 2).reshape(b, n, 32)))
        return self.head(x.mean(1))


MIXERS: dict[str, Case] = {
    "mlp-mixer": Case(
        Mixer,
        lambda: pixels(12),
        PATCH | {"tokens.*.weight": "hidden oi spectral", "channels.*.weight": "hidden oi spectral"},
    ),
    "resmlp": Case(
        ResMLP,
        lambda: pixels(12),
        CONVOLVED
        | {
            "*.alpha": "gain --o rms",
            "*.beta": "bias --o rms",
            "ls?": "gain o rms",
            "linear_tokens.weight": "hidden oi spectral",
            "fc?.weight": "hidden oi spectral",
        },
    ),
    "gmlp": Case(
        GatedMLP,
        lambda: (torch.arange(12).view(2, 6) * 7) % 96,
        {
            "embed.weight": "embedding xo colnorm",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
            "*norm.weight": "gain o rms",
            "proj_in.weight": "hidden oi spectral 24 24",
            "proj_in.bias": "bias o rms 24 24",
            "spatial.weight": "hidden oik spectral",
            "proj_out.weight": "hidden oi spectral",
        },
    ),
    # rel_h and rel_w are scored by every query as keys are, head by head: a map from a query to a score a row (or
    # column) of the image. One could call them tables of places as well.
    "botnet": Case(
        BoTNet,
        lambda: pixels(12),
        PATCH
        | {
            "qkv.weight": "hidden oikk spectral 16 16 16",
            "qkv.bias": "bias o rms 16 16 16",
            "rel_h": "hidden -bi-o spectral",
            "rel_w": "hidden -bio- spectral",
        },
    ),
    "coatnet": Case(
        CoAtNet,
        lambda: pixels(12),
        PATCH
        | {
            "qkv.weight": "hidden oi spectral 16 16 16",
            "relative_bias_table": "position xo colnorm",
            "to_out.0.weight": "hidden oi spectral",
        },
    ),
    # q and k have 4 entries a head, v has 8, head after head; the batch norm's affine parts have the same blocks.
    "levit": Case(
        LeViT,
        lambda: pixels(12),
        PATCH
        | {
            "qkv.weight": "hidden oi spectral ~16 ~16 ~32",
            "norm.bias": "bias o rms ~16 ~16 ~32",
            "norm.weight": "gain o rms ~16 ~16 ~32",
            "attention_biases": "position ox colnorm",
            "proj.weight": "hidden oi spectral",
        },
    ),
}
