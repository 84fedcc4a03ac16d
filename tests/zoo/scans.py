"""State spaces, long filters and recurrences that a scan or a Fourier transform carries out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.awkward import vectors
from tests.zoo.case import Case, tokens
from tests.zoo.sequences import BIAS, LINEAR, TEXT


class S4D(nn.Module):
    """A diagonal state space with complex parameters, applied by a Fourier transform."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out, self.head = nn.Linear(3, 8), nn.Conv1d(8, 16, 1), nn.Linear(8, 5)
        self.log_dt, self.d = nn.Parameter(torch.rand(8)), nn.Parameter(torch.randn(8))
        self.c = nn.Parameter(torch.view_as_real(torch.randn(8, 4, dtype=torch.cfloat)))
        self.log_a_real, self.a_imag = nn.Parameter(torch.zeros(8, 4)), nn.Parameter(math.pi * torch.ones(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        u = self.stem(x).transpose(-1, -2)
        length = u.size(-1)
        dt, c = torch.exp(self.log_dt), torch.view_as_complex(self.c)
        a = -torch.exp(self.log_a_real) + 1j * self.a_imag
        dta = a * dt.unsqueeze(-1)
        k = dta.unsqueeze(-1) * torch.arange(length)
        c = c * (torch.exp(dta) - 1.0) / a
        k = 2 * torch.einsum("hn,hnl->hl", c, torch.exp(k)).real
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(k, n=2 * length), n=2 * length)
        y = F.glu(self.out(F.gelu(y[..., :length] + u * self.d.unsqueeze(-1))), dim=-2)
        return self.head(y.transpose(-1, -2))


class RWKV(nn.Module):
    """Each channel mixes a place with the one before; a decay a channel; receptance gates."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(96, 16), nn.Linear(16, 96, bias=False)
        self.mu_k, self.mu_v, self.mu_r = (nn.Parameter(torch.rand(1, 1, 16)) for _ in range(3))
        self.decay, self.bonus = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(16))
        self.key, self.value, self.receptance, self.output = (nn.Linear(16, 16, bias=False) for _ in range(4))
        self.mix, self.up, self.down = (
            nn.Parameter(torch.rand(16)), nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False),
        )  # fmt: skip

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        before = F.pad(x, (0, 0, 1, -1))
        k = self.key(x * self.mu_k + before * (1 - self.mu_k))
        v = self.value(torch.lerp(before, x, self.mu_v))
        r = self.receptance(before + (x - before) * self.mu_r).sigmoid()
        w = torch.exp(-torch.exp(self.decay))
        top, bottom = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0])
        outs = []
        for place in range(x.shape[1]):
            now = torch.exp(k[:, place])
            first = torch.exp(self.bonus) * now
            outs.append((top + first * v[:, place]) / (bottom + first))
            top, bottom = w * top + now * v[:, place], w * bottom + now
        x = x + self.output(r * torch.stack(outs, dim=1))
        y = x + (F.pad(x, (0, 0, 1, -1)) - x) * self.mix
        return self.head(x + self.down(self.up(y).relu().square()))


class Hyena(nn.Module):
    """A long filter from an MLP of places with sines of a learned frequency, and a short depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.out = nn.Embedding(96, 8), nn.Linear(8, 96), nn.Linear(8, 8)
        self.in_proj, self.short = nn.Linear(8, 24), nn.Conv1d(24, 24, 3, padding=2, groups=24)
        self.filter1, self.filter2, self.freq = (
            nn.Linear(3, 16),
            nn.Linear(16, 8, bias=False),
            nn.Parameter(torch.ones(1, 16)),
        )
        self.d = nn.Parameter(torch.randn(8))
        t = torch.linspace(0, 1, 8)[None, :, None]
        self.register_buffer("z", torch.cat([t, (6 * t).cos(), (6 * t).sin()], dim=-1))
        self.register_buffer("window", torch.exp(-t * torch.linspace(1, 3, 8)))

    def forward(self, ids: Tensor) -> Tensor:
        u = self.in_proj(self.embed(ids)).transpose(1, 2)
        length = ids.shape[-1]
        x1, x2, v = self.short(u)[..., :length].split(8, dim=1)
        k = (self.filter2(torch.sin(self.freq * self.filter1(self.z))) * self.window).transpose(1, 2)
        v = v * x1
        y = torch.fft.irfft(torch.fft.rfft(v, n=2 * length) * torch.fft.rfft(k, n=2 * length), n=2 * length)
        y = y[..., :length] + v * self.d.unsqueeze(-1)
        return self.head(self.out((y * x2).transpose(1, 2)))


class Gated(nn.Module):
    """A linear recurrence with gates (minGRU by a cumulative sum in logs) and highway layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.to_hidden_and_gate = (
            nn.Embedding(96, 8),
            nn.Linear(8, 96),
            nn.Linear(8, 32, bias=False),
        )
        self.out, self.transform, self.gate = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        hidden, gate = self.to_hidden_and_gate(x).chunk(2, dim=-1)
        log_coefficients, log_values = -F.softplus(gate), -F.softplus(-gate) + torch.log(F.relu(hidden) + 0.5)
        total = log_coefficients.cumsum(dim=1)
        x = x + self.out((total + (log_values - total).logcumsumexp(dim=1)).exp())
        t = torch.sigmoid(self.gate(x))
        return self.head(self.transform(x).relu() * t + x * (1 - t))


SCANS: dict[str, Case] = {
    # The decay passes through exponentials, and so does the bonus: rates of the recurrence.
    "rwkv-loop": Case(
        RWKV,
        lambda: tokens(5),
        TEXT
        | {"mu_?": "gain --o rms", "mix": "gain o rms", "decay": "state o sign", "bonus": "state o sign"}
        | {"*.weight": LINEAR},
    ),
    # The MLP's operand is a table of sines. Frequencies multiply its features inside of a sine.
    "hyena": Case(
        Hyena,
        lambda: tokens(8),
        TEXT
        | BIAS
        | {
            "out.weight": LINEAR,
            "in_proj.weight": "hidden oi spectral 8 8 8",
            "in_proj.bias": "bias o rms 8 8 8",
            "short.weight": "depthwise bik rownorm",
            "short.bias": "bias o rms 8 8 8",
            "filter1.weight": "input oi spectral",
            "filter2.weight": LINEAR,
            "freq": "gain -o rms",
            "d": "gain o rms",
        },
    ),
    "min-gru": Case(
        Gated,
        lambda: tokens(5),
        TEXT
        | BIAS
        | {"to_hidden_and_gate.weight": "hidden oi spectral 16 16", "out.weight": LINEAR}
        | {"transform.weight": LINEAR, "gate.weight": LINEAR},
    ),
    # No entry of c, a or dt is part of a matrix: each belongs to one state of one channel.
    "s4d": Case(
        S4D,
        lambda: vectors(2, 6, 3),
        BIAS
        | {
            "stem.weight": "input oi spectral",
            "out.weight": "hidden oik spectral 8 8",
            "out.bias": "bias o rms 8 8",
            "head.weight": "output oi sign",
            "log_dt": "state o sign",
            "d": "gain o rms",
            "c": "state obb sign",
            "log_a_real": "state ob sign",
            "a_imag": "state ob sign",
        },
    ),
}
