"""Vision transformers, plain and with convolutions, as timm and the papers' own code write them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, pixels
from tests.zoo.mixers import PATCH


class CaiT(nn.Module):
    """Heads that talk before and after the softmax, layer scale, then class attention with a single query."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1, self.norm2 = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16), nn.LayerNorm(16)
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 9, 16))
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.proj_l, self.proj_w = nn.Linear(4, 4), nn.Linear(4, 4)
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(16))
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.pos_embed
        x = x + self.gamma_1 * self.talking(self.norm1(x))
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        u = self.norm2(x)
        b, n, c = u.shape
        q = self.q(u[:, 0]).unsqueeze(1).reshape(b, 1, 4, c // 4).permute(0, 2, 1, 3)
        k, v = (layer(u).reshape(b, n, 4, c // 4).permute(0, 2, 1, 3) for layer in (self.k, self.v))
        attn = (q * 0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        token = x[:, :1] + self.gamma_2 * self.out((attn @ v).transpose(1, 2).reshape(b, 1, c))
        return self.head(self.norm(torch.cat((token, x[:, 1:]), dim=1))[:, 0])

    def talking(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * 0.5, qkv[1], qkv[2]
        attn = self.proj_l((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(dim=-1)
        attn = self.proj_w(attn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


class SwinV2(nn.Module):
    """Cosine attention with a temperature a head in the log domain, q and v biases alone, an MLP of offsets."""

    k_bias: Tensor
    coords_table: Tensor
    position_index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 48, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(16)), nn.Parameter(torch.zeros(16))
        self.register_buffer("k_bias", torch.zeros(16), persistent=False)
        self.logit_scale = nn.Parameter(torch.log(10 * torch.ones((4, 1, 1))))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 32), nn.ReLU(inplace=True), nn.Linear(32, 4, bias=False))
        self.proj, self.norm1, self.head = nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 10)
        axis = torch.arange(-2, 3, dtype=torch.float32) / 2
        self.register_buffer("coords_table", torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)[None])
        place = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")).flatten(1)
        offset = (place[:, :, None] - place[:, None, :]) + 2
        self.register_buffer("position_index", offset[0] * 5 + offset[1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        b, n, c = x.shape
        bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).reshape(b, n, 3, 4, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        attn = attn * torch.clamp(self.logit_scale, max=math.log(1.0 / 0.01)).exp()
        table = self.cpb_mlp(self.coords_table).view(-1, 4)
        offsets = table[self.position_index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()
        attn = (attn + (16 * torch.sigmoid(offsets)).unsqueeze(0)).softmax(dim=-1)
        x = x + self.norm1(self.proj((attn @ v).transpose(1, 2).reshape(b, n, c)))
        return self.head(x.mean(1))


class XCiT(nn.Module):
    """Attention between channels with a temperature a head, then depthwise convolutions over patches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.proj = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 48), nn.Linear(16, 16)
        self.temperature = nn.Parameter(torch.ones(4, 1, 1))
        self.depth1, self.norm3, self.depth2 = (
            nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, groups=16),
        )  # fmt: skip
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h, w = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 4, 1).unbind(0)
        attn = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        x = x + self.proj((attn.softmax(dim=-1) @ v).permute(0, 3, 1, 2).reshape(b, n, c))
        y = self.depth2(self.norm3(F.gelu(self.depth1(x.permute(0, 2, 1).reshape(b, c, h, w)))))
        return self.head((x + y.reshape(b, c, n).permute(0, 2, 1)).mean(1))


class Pyramid(nn.Module):
    """PVT: keys and values from a map that a strided convolution has shrunk; a position for every patch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pos_embed = nn.Conv2d(3, 16, 2, stride=2), nn.Parameter(torch.zeros(1, 16, 16))
        self.q, self.kv, self.proj = nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(16, 16)
        self.sr, self.norm, self.head = nn.Conv2d(16, 16, 2, stride=2), nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.pos_embed
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, 4, c // 4).permute(0, 2, 1, 3)
        small = self.sr(x.permute(0, 2, 1).reshape(b, c, 4, 4)).reshape(b, c, -1).permute(0, 2, 1)
        kv = self.kv(self.norm(small)).reshape(b, -1, 2, 4, c // 4).permute(2, 0, 3, 1, 4)
        attn = ((q @ kv[0].transpose(-2, -1)) * 0.5).softmax(dim=-1)
        return self.head((x + self.proj((attn @ kv[1]).transpose(1, 2).reshape(b, n, c))).mean(1))


class Registers(nn.Module):
    """A class token and register tokens, a distillation token with a head of its own, positions for all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pos_embed = nn.Conv2d(3, 16, 4, stride=4), nn.Parameter(torch.zeros(1, 11, 16))
        self.cls_token, self.dist_token = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 1, 16))
        self.register_tokens = nn.Parameter(torch.zeros(1, 4, 16))
        self.block = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.head, self.head_dist = nn.Linear(16, 10), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x).flatten(2).transpose(1, 2)
        b = x.shape[0]
        x = torch.cat([self.cls_token.expand(b, -1, -1), self.dist_token.expand(b, -1, -1), x], dim=1) + self.pos_embed
        x = torch.cat([x[:, :2], self.register_tokens.repeat(b, 1, 1), x[:, 2:]], dim=1)
        x = self.block(x)
        return self.head(x[:, 0]), self.head_dist(x[:, 1])


HYBRIDS: dict[str, Case] = {
    "cait": Case(
        CaiT,
        lambda: pixels(12),
        PATCH
        | {
            "cls_token": "token --o rms",
            "pos_embed": "position -xo colnorm",
            "qkv.weight": "hidden oi spectral 16 16 16",
            "qkv.bias": "bias o rms 16 16 16",
            "proj*.weight": "hidden oi spectral",
            "gamma_?": "gain o rms",
            "?.weight": "hidden oi spectral",
            "out.weight": "hidden oi spectral",
        },
    ),
    "swin-v2": Case(
        SwinV2,
        lambda: pixels(12),
        PATCH
        | {
            "qkv.weight": "hidden oi spectral 16 16 16",
            "logit_scale": "state o-- sign",
            "cpb_mlp.0.weight": "input oi spectral",
            "cpb_mlp.2.weight": "hidden oi spectral",
            "proj.weight": "hidden oi spectral",
        },
    ),
    "xcit": Case(
        XCiT,
        lambda: pixels(12),
        PATCH
        | {
            "qkv.weight": "hidden oi spectral 16 16 16",
            "qkv.bias": "bias o rms 16 16 16",
            "temperature": "gain o-- rms",
            "proj.weight": "hidden oi spectral",
            "depth?.weight": "depthwise bikk rownorm",
        },
    ),
    "pvt": Case(
        Pyramid,
        lambda: pixels(8),
        PATCH
        | {
            "pos_embed": "position -xo colnorm",
            "q.weight": "hidden oi spectral",
            "kv.weight": "hidden oi spectral 16 16",
            "kv.bias": "bias o rms 16 16",
            "proj.weight": "hidden oi spectral",
            "sr.weight": "hidden oikk spectral",
        },
    ),
    "registers": Case(
        Registers,
        lambda: pixels(12),
        PATCH
        | {
            "pos_embed": "position -xo colnorm",
            "cls_token": "token --o rms",
            "dist_token": "token --o rms",
            "register_tokens": "token -xo rms",
            "block.self_attn.in_proj_weight": "hidden oi spectral 16 16 16",
            "block.self_attn.in_proj_bias": "bias o rms 16 16 16",
            "block.*.weight": "hidden oi spectral",
            "block.linear?.weight": "hidden oi spectral",
            "block.norm?.weight": "gain o rms",
            "head_dist.weight": "output oi sign",
        },
    ),
}
