"""Sequence models that are no plain transformer: convolutions, recurrences, state spaces, linear attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.awkward import vectors
from tests.zoo.case import Case, tokens

LINEAR = "hidden oi spectral"
TEXT = {"embed.weight": "embedding xo colnorm", "head.weight": "output oi sign"}
BIAS = {"*bias": "bias o rms"}


class WaveNet(nn.Module):
    """Causal dilated convolutions with a gate, residual and skip by 1x1 convolutions, a condition added inside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.condition = nn.Conv1d(1, 8, 1), nn.Conv1d(4, 16, 1, bias=False)
        self.dilated = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=2**i) for i in range(2))
        self.residual = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(2))
        self.skip = nn.ModuleList(nn.Conv1d(8, 12, 1) for _ in range(2))
        self.end1, self.end2 = nn.Conv1d(12, 12, 1), nn.Conv1d(12, 32, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = self.stem(x)
        c = self.condition(c)
        skips = torch.zeros(())
        for i, (dilated, residual, skip) in enumerate(zip(self.dilated, self.residual, self.skip, strict=True)):
            y = dilated(F.pad(x, (2**i, 0))) + c
            a, b = y.chunk(2, dim=1)
            y = torch.tanh(a) * torch.sigmoid(b)
            skips = skips + skip(y)
            x = x + residual(y)
        return self.end2(self.end1(skips.relu()).relu())


class DeepSpeech(nn.Module):
    """Spectrogram, 2d convolutions with clipped activations, GRUs both ways, a row convolution, letters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, (5, 3), stride=(2, 1), padding=(2, 1)), nn.BatchNorm2d(4)
        self.rnn, self.norm2 = nn.GRU(16, 12, bidirectional=True), nn.BatchNorm1d(12)
        self.lookahead, self.head = (
            nn.Conv1d(12, 12, 3, padding=1, groups=12, bias=False),
            nn.Linear(12, 29, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.norm(self.conv(x)), 0, 20)
        b, c, f, t = x.size()
        x = x.view(b, c * f, t).transpose(1, 2).transpose(0, 1).contiguous()
        x, _ = self.rnn(x)
        x = x.view(t, b, 2, -1).sum(2).view(t, b, -1)
        x = self.norm2(x.view(t * b, -1)).view(t, b, -1)
        x = self.lookahead(x.permute(1, 2, 0)).permute(0, 2, 1)
        return self.head(F.hardtanh(x, 0, 20)).log_softmax(-1)


class Cells(nn.Module):
    """An LSTM with a projection, an LSTM cell in a loop, a plain RNN, additive attention over its states."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(96, 8), nn.LSTM(8, 16, proj_size=6, batch_first=True)
        self.cell, self.rnn = nn.LSTMCell(6, 10), nn.RNN(10, 12, nonlinearity="relu", batch_first=True)
        self.gru = nn.GRUCell(12, 12)
        self.query, self.key, self.v = nn.Linear(12, 8, bias=False), nn.Linear(12, 8), nn.Linear(8, 1, bias=False)
        self.head = nn.Linear(12, 96)

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(ids))
        h, c = torch.zeros(x.shape[0], 10), torch.zeros(x.shape[0], 10)
        states = []
        for place in range(x.shape[1]):
            h, c = self.cell(x[:, place], (h, c))
            states.append(h)
        x, last = self.rnn(torch.stack(states, dim=1))
        score = self.v(torch.tanh(self.query(last[-1]).unsqueeze(1) + self.key(x))).squeeze(-1)
        context = torch.bmm(score.softmax(-1).unsqueeze(1), x).squeeze(1)
        return self.head(self.gru(context, last[-1]))


class LinearAttention(nn.Module):
    """Kernel features of q and k, sums over places; then a decay a head as RetNet has it."""

    decay: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(96, 16), nn.Linear(16, 96, bias=False)
        self.qkv, self.out = nn.Linear(16, 48, bias=False), nn.Linear(16, 16, bias=False)
        self.q, self.k, self.v, self.g, self.o = (nn.Linear(16, 16, bias=False) for _ in range(5))
        self.group_norm = nn.GroupNorm(4, 16, affine=False)
        self.register_buffer("decay", torch.log(1 - 2.0 ** (-5 - torch.arange(4.0))))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, n, c = x.shape
        q, k, v = (t.view(b, n, 4, c // 4) for t in self.qkv(x).chunk(3, dim=-1))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        kv = torch.einsum("bnhd,bnhe->bhde", k, v)
        z = 1 / (torch.einsum("bnhd,bhd->bnh", q, k.sum(dim=1)) + 1e-6)
        x = x + self.out(torch.einsum("bnhd,bhde,bnh->bnhe", q, kv, z).reshape(b, n, c))
        q, k, v = (layer(x).view(b, n, 4, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        place = torch.arange(n)
        distance = place[:, None] - place[None]
        mask = torch.exp(distance.clamp(min=0) * self.decay[:, None, None]) * (distance >= 0)
        y = ((q @ k.transpose(-1, -2)) * mask @ v).transpose(1, 2).reshape(b * n, c)
        y = self.group_norm(y).view(b, n, c)
        return self.head(x + self.o(F.silu(self.g(x)) * y))


SEQUENCES: dict[str, Case] = {
    "wavenet": Case(
        WaveNet,
        lambda: (vectors(2, 1, 12), vectors(2, 4, 12)),
        BIAS
        | {
            "stem.weight": "input oik spectral",
            "condition.weight": "input oik spectral 8 8",
            "dilated.*.weight": "hidden oik spectral 8 8",
            "dilated.*.bias": "bias o rms 8 8",
            "residual.0.weight": "hidden oik spectral",
            "residual.1.*": "unused",
            "skip.*.weight": "hidden oik spectral",
            "end1.weight": "hidden oik spectral",
            "end2.weight": "output oik sign",
        },
    ),
    "deep-speech": Case(
        DeepSpeech,
        lambda: vectors(2, 1, 8, 6),
        {
            "conv.weight": "input oikk spectral",
            "*norm*.weight": "gain o rms",
            "*bias": "bias o rms",
            "rnn.weight_*": "hidden oi spectral 12 12 12",
            "rnn.bias_*": "bias o rms 12 12 12",
            "lookahead.weight": "depthwise bik rownorm",
            "head.weight": "output oi sign",
        },
    ),
    "cells": Case(
        Cells,
        lambda: tokens(5),
        TEXT
        | BIAS
        | {
            "lstm.weight_?h_l0": "hidden oi spectral 16 16 16 16",
            "lstm.bias_*": "bias o rms 16 16 16 16",
            "lstm.weight_hr_l0": LINEAR,
            "cell.weight_*": "hidden oi spectral 10 10 10 10",
            "cell.bias_*": "bias o rms 10 10 10 10",
            "rnn.weight_*": LINEAR,
            "rnn.bias_*": "bias o rms",
            "gru.weight_*": "hidden oi spectral 12 12 12",
            "gru.bias_*": "bias o rms 12 12 12",
            "query.weight": LINEAR,
            "key.weight": LINEAR,
            "v.weight": LINEAR,
        },
    ),
    "linear-attention": Case(
        LinearAttention,
        lambda: tokens(5),
        TEXT | {"qkv.weight": "hidden oi spectral 16 16 16", "out.weight": LINEAR, "?.weight": LINEAR},
    ),
}
