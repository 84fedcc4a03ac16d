"""Diffusion, autoencoders, adversaries and radiance fields."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm

from tests.zoo.awkward import vectors
from tests.zoo.case import Case, pixels


def waves(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of times, [batch, width]."""
    angle = t[:, None] * torch.exp(-torch.arange(width // 2) / width)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class ResBlock(nn.Module):
    """Group norm, convolution, a scale and a shift from the time, convolution, shortcut."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.time, self.norm2 = nn.Linear(32, 2 * outside), nn.GroupNorm(4, outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time(F.silu(t))[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class UNet(nn.Module):
    """Down, attention in the middle, up, with a skip; classes are embedded beside the time."""

    def __init__(self) -> None:
        super().__init__()
        self.time1, self.time2, self.label = nn.Linear(16, 32), nn.Linear(32, 32), nn.Embedding(10, 32)
        self.stem, self.one, self.down = nn.Conv2d(3, 8, 3, padding=1), ResBlock(8, 8), nn.Conv2d(8, 16, 3, 2, 1)
        self.norm, self.qkv, self.proj = nn.GroupNorm(4, 16), nn.Conv1d(16, 48, 1), nn.Conv1d(16, 16, 1)
        self.up, self.two = nn.ConvTranspose2d(16, 8, 2, stride=2), ResBlock(16, 8)
        self.norm_out, self.last = nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        e = self.time2(F.silu(self.time1(waves(t, 16)))) + self.label(y)
        a = self.one(self.stem(x), e)
        x = self.down(a)
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x).reshape(b, c, -1)).reshape(b * 4, 12, -1).split(4, dim=1)
        weight = torch.einsum("bct,bcs->bts", q * 0.7, k * 0.7).softmax(dim=-1)
        attended = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
        x = (x.reshape(b, c, -1) + self.proj(attended)).reshape(b, c, h, w)
        x = self.two(torch.cat([self.up(x), a], dim=1), e)
        return self.last(F.silu(self.norm_out(x)))


class DiT(nn.Module):
    """A diffusion transformer with adaptive norms that begin at zero; its table of places is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.x_embedder, self.t_embedder = nn.Conv2d(3, 16, 4, stride=4), nn.Sequential(nn.Linear(8, 16), nn.SiLU())
        self.t_out, self.y_embedder = nn.Linear(16, 16), nn.Embedding(11, 16)
        self.pos_embed = nn.Parameter(torch.randn(1, 4, 16), requires_grad=False)
        self.qkv, self.proj, self.fc1, self.fc2 = (
            nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 64), nn.Linear(64, 16),
        )  # fmt: skip
        self.adaln = nn.Sequential(nn.SiLU(), nn.Linear(16, 96))
        self.adaln_last, self.last = nn.Sequential(nn.SiLU(), nn.Linear(16, 32)), nn.Linear(16, 48)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.t_out(self.t_embedder(waves(t, 8))) + self.y_embedder(y)
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaln(c).chunk(6, dim=1)
        b, n, d = x.shape
        u = self.modulate(x, shift1, scale1)
        q, k, v = self.qkv(u).reshape(b, n, 3, 4, d // 4).permute(2, 0, 3, 1, 4).unbind(0)
        u = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = x + gate1.unsqueeze(1) * self.proj(u)
        x = x + gate2.unsqueeze(1) * self.fc2(F.gelu(self.fc1(self.modulate(x, shift2, scale2)), approximate="tanh"))
        shift, scale = self.adaln_last(c).chunk(2, dim=1)
        x = self.last(self.modulate(x, shift, scale)).reshape(b, 2, 2, 4, 4, 3)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(b, 3, 8, 8)

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, (16,)) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class VAE(nn.Module):
    """Mean and log-variance from one matrix here; a decoder that begins with a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Linear(8 * 16, 24)
        self.up, self.deconv = nn.Linear(12, 8 * 16), nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.fc(self.conv(x).relu().flatten(1)).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.deconv(self.up(z).relu().view(-1, 8, 4, 4)).sigmoid(), mu, logvar


class VQVAE(nn.Module):
    """The nearest entry of a codebook, straight through; both losses inside."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.codebook = nn.Conv2d(3, 8, 4, stride=4), nn.Embedding(20, 8)
        self.decoder = nn.ConvTranspose2d(8, 3, 4, stride=4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).permute(0, 2, 3, 1).contiguous()
        flat = z.view(-1, 8)
        distance = (
            flat.pow(2).sum(1, keepdim=True) + self.codebook.weight.pow(2).sum(1) - 2 * flat @ self.codebook.weight.t()
        )
        quantised = self.codebook(distance.argmin(1)).view_as(z)
        loss = F.mse_loss(quantised, z.detach()) + 0.25 * F.mse_loss(quantised.detach(), z)
        quantised = z + (quantised - z).detach()
        return self.decoder(quantised.permute(0, 3, 1, 2)), loss


class Discriminator(nn.Module):
    """Spectral norm as a hook and as a parametrization, a projection of the class onto the features."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = spectral_norm(nn.Conv2d(3, 8, 4, 2, 1)), spectral_norm(nn.Conv2d(8, 16, 4, 2, 1))
        self.three = parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, padding=1))
        self.four = parametrizations.spectral_norm(nn.Linear(16, 16))
        self.label, self.head = nn.Embedding(10, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = F.leaky_relu(self.two(F.leaky_relu(self.one(x), 0.2)), 0.2)
        x = self.four(F.leaky_relu(self.three(x), 0.2).sum((2, 3))).relu()
        return self.head(x) + (self.label(y) * x).sum(1, keepdim=True)


class StyleGenerator(nn.Module):
    """StyleGAN2: a learned constant image, filters scaled by a style and normalised for every sample, noise."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping, self.mapping2 = nn.Linear(8, 16), nn.Linear(16, 16)
        self.constant = nn.Parameter(torch.randn(1, 16, 4, 4))
        self.style, self.weight = nn.Linear(16, 16), nn.Parameter(torch.randn(12, 16, 3, 3))
        self.noise, self.bias = nn.Parameter(torch.zeros([])), nn.Parameter(torch.zeros(12))
        self.to_rgb = nn.Conv2d(12, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping2(F.leaky_relu(self.mapping(F.normalize(z, dim=1)), 0.2))
        x = self.constant.repeat(z.shape[0], 1, 1, 1)
        style = self.style(w)
        weight = self.weight.unsqueeze(0) * style.reshape(z.shape[0], 1, -1, 1, 1)
        weight = weight * (weight.square().sum(dim=[2, 3, 4], keepdim=True) + 1e-8).rsqrt()
        b, _, h, w_ = x.shape
        x = F.conv2d(x.reshape(1, -1, h, w_), weight.reshape(-1, 16, 3, 3), padding=1, groups=b).reshape(b, -1, h, w_)
        x = x + torch.randn(b, 1, h, w_) * self.noise
        return self.to_rgb(F.leaky_relu(x + self.bias[None, :, None, None], 0.2))


class NeRF(nn.Module):
    """Points and directions as waves, the points once more half-way, density and colour."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(15, 32), nn.Linear(32, 32), nn.Linear(47, 32)
        self.density, self.feature = nn.Linear(32, 1), nn.Linear(32, 32)
        self.view, self.colour = nn.Linear(47, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, d: Tensor) -> Tensor:
        x, d = self.encode(x), self.encode(d)
        h = self.two(self.one(x).relu()).relu()
        h = self.three(torch.cat([x, h], dim=-1)).relu()
        v = self.view(torch.cat([self.feature(h), d], dim=-1)).relu()
        return torch.cat([self.colour(v).sigmoid(), F.softplus(self.density(h))], dim=-1)

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x] + [f(x * 2.0**i) for i in range(2) for f in (torch.sin, torch.cos)], dim=-1)


CONV, LINEAR, BIAS = "hidden oikk spectral", "hidden oi spectral", {"*bias": "bias o rms"}

GENERATIVE: dict[str, Case] = {
    "diffusion-unet": Case(
        UNet,
        lambda: (pixels(8), torch.tensor([3.0, 7.0]), torch.tensor([1, 4])),
        BIAS
        | {
            "time1.weight": "input oi spectral",
            "time2.weight": LINEAR,
            "label.weight": "embedding xo colnorm",
            "stem.weight": "input oikk spectral",
            "*.conv?.weight": CONV,
            "*.time.weight": "hidden oi spectral 8 8",
            "*.time.bias": "bias o rms 8 8",
            "*norm*.weight": "gain o rms",
            "down.weight": CONV,
            "up.weight": "hidden iokk spectral",
            "two.skip.weight": CONV,
            "qkv.weight": "hidden oik spectral ~16 ~16 ~16",
            "qkv.bias": "bias o rms ~16 ~16 ~16",
            "proj.weight": "hidden oik spectral",
            "last.weight": "output oikk sign",
        },
    ),
    "dit": Case(
        DiT,
        lambda: (pixels(8), torch.tensor([3.0, 7.0]), torch.tensor([1, 4])),
        BIAS
        | {
            "x_embedder.weight": "input oikk spectral",
            "t_embedder.0.weight": "input oi spectral",
            "t_out.weight": LINEAR,
            "y_embedder.weight": "embedding xo colnorm",
            "pos_embed": "position -xo colnorm",
            "qkv.weight": "hidden oi spectral 16 16 16",
            "qkv.bias": "bias o rms 16 16 16",
            "proj.weight": LINEAR,
            "fc?.weight": LINEAR,
            "adaln.1.weight": "hidden oi spectral 16 16 16 16 16 16",
            "adaln.1.bias": "bias o rms 16 16 16 16 16 16",
            "adaln_last.1.weight": "hidden oi spectral 16 16",
            "adaln_last.1.bias": "bias o rms 16 16",
            "last.weight": "output oi sign",
        },
    ),
    "vae": Case(
        VAE,
        lambda: pixels(8, 1),
        BIAS
        | {
            "conv.weight": "input oikk spectral",
            "fc.weight": "hidden oi spectral 12 12",
            "fc.bias": "bias o rms 12 12",
            "up.weight": LINEAR,
            "deconv.weight": "output iokk sign",
            "deconv.bias": "bias - rms",
        },
    ),
    # No gradient flows through the distance: only the entry that was picked learns.
    "vq-vae": Case(
        VQVAE,
        lambda: pixels(8),
        BIAS
        | {
            "encoder.weight": "input oikk spectral",
            "codebook.weight": "embedding xo colnorm",
            "decoder.weight": "output iokk sign",
        },
    ),
    # The label is chosen by the inputs and scores the features of the last layer: an embedding all the same.
    "discriminator": Case(
        Discriminator,
        lambda: (pixels(8), torch.tensor([1, 4])),
        BIAS
        | {
            "one.weight_orig": "input oikk spectral",
            "two.weight_orig": CONV,
            "three.*.original": CONV,
            "four.*.original": LINEAR,
            "label.weight": "embedding xo colnorm",
            "head.weight": "output oi sign",
            "head.bias": "bias - rms",
        },
    ),
    # The constant has a vector for every place: a table of places, from which the stream starts. The filter is scaled
    # along its fan-in by each sample's style.
    "style-gan": Case(
        StyleGenerator,
        lambda: vectors(2, 8),
        BIAS
        | {
            "mapping.weight": "input oi spectral",
            "mapping2.weight": LINEAR,
            "constant": "token -oxx rms",
            "style.weight": LINEAR,
            "weight": CONV,
            "noise": "scalar  sign",
            "to_rgb.weight": "output oikk sign",
        },
    ),
    "nerf": Case(
        NeRF,
        lambda: (vectors(6, 3), vectors(6, 3)),
        BIAS
        | {
            "*.weight": LINEAR,
            "one.weight": "input oi spectral",
            "density.weight": "output oi sign",
            "density.bias": "bias - rms",
            "colour.weight": "output oi sign",
        },
    ),
}
