"""Convolutional networks, as they are written for images, sound, volumes and video."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Case, pixels

STEM = {"stem.weight": "input oikk spectral", "*bias": "bias o rms"}
NORM = {"*norm*.weight": "gain o rms"}
ENDS = STEM | {"head.weight": "output oi sign"}


class InvertedResidual(nn.Module):
    """EfficientNet's block: expand, depthwise, squeeze and excite by 1x1 convolutions, project, add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.expand, self.norm1 = nn.Conv2d(8, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.depthwise, self.norm2 = nn.Conv2d(32, 32, 5, padding=2, groups=32, bias=False), nn.BatchNorm2d(32)
        self.squeeze, self.excite = nn.Conv2d(32, 4, 1), nn.Conv2d(4, 32, 1)
        self.project, self.norm3 = nn.Conv2d(32, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm0(self.stem(x)))
        y = F.silu(self.norm1(self.expand(x)))
        y = F.silu(self.norm2(self.depthwise(y)))
        y = y * self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        x = x + self.norm3(self.project(y))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SqueezeLinear(nn.Module):
    """SENet's spelling: linear layers on pooled features, hard sigmoid, a view to put the places back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.fc = nn.Sequential(nn.Linear(16, 4, bias=False), nn.ReLU(), nn.Linear(4, 16, bias=False), nn.Hardsigmoid())
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.hardswish(self.stem(x)))
        b, c, _, _ = x.size()
        x = x * self.fc(x.mean((2, 3)).view(b, c)).view(b, c, 1, 1).expand_as(x)
        return self.head(x.amax(dim=(-2, -1)))


class RegNet(nn.Module):
    """A grouped bottleneck with a projected shortcut, and ShuffleNet's shuffle between grouped 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, bias=False)
        self.conv1, self.conv3 = nn.Conv2d(12, 24, 1, bias=False), nn.Conv2d(24, 24, 1, bias=False)
        self.conv2, self.down = (
            nn.Conv2d(24, 24, 3, padding=1, groups=3, bias=False),
            nn.Conv2d(12, 24, 1, bias=False),
        )
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(24) for _ in range(3))
        self.point1, self.point2 = nn.Conv2d(24, 12, 1, groups=3), nn.Conv2d(12, 24, 1, groups=3)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm3(self.conv3(self.norm2(self.conv2(y)).relu()))
        x = (y + self.down(x)).relu()
        y = self.point1(x)
        b, c, h, w = y.shape
        y = y.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head((x + self.point2(y)).mean((2, 3)))


class DenseNet(nn.Module):
    """Every layer reads all layers before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3))
        self.transition, self.head = nn.Conv2d(20, 10, 1, bias=False), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(norm(torch.cat(features, 1)).relu()))
        x = F.avg_pool2d(self.transition(torch.cat(features, 1).relu()), 2)
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class ScaledStdConv2d(nn.Conv2d):
    """NFNet's convolution: a batch norm of the weight, over each filter, with a gain."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # ints are enough here
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None,
            weight=(self.gain * self.scale).view(-1), training=True, momentum=0.0,
        ).reshape_as(self.weight)  # fmt: skip
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class WSConv2d(nn.Conv2d):
    """The same by hand: minus the mean, over the deviation, times a gain."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # ints are enough here
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        var, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True)
        scale = torch.rsqrt(torch.maximum(var * w[0].numel(), torch.tensor(1e-4))) * self.gain
        return F.conv2d(x, w * scale - mean * scale, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StdConv2d(nn.Conv2d):
    """Weight standardisation as Big Transfer writes it."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = w - w.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True).mean(dim=3, keepdim=True)
        std = w.view(w.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
        return F.conv2d(x, w / std.expand_as(w), self.bias, self.stride, self.padding, self.dilation, self.groups)


class Standardised(nn.Module):
    """One convolution of each kind, a grouped one, NFNet's scalar gain on the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = ScaledStdConv2d(3, 8, 3), ScaledStdConv2d(8, 16, 3)
        self.two, self.three = WSConv2d(16, 16, 3, padding=1), StdConv2d(16, 16, 3, padding=1)
        self.grouped = ScaledStdConv2d(16, 16, 1, groups=2)
        self.skipinit_gain = nn.Parameter(torch.tensor(0.0))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(F.silu(self.stem(x)))
        y = self.three(F.silu(self.two(F.silu(x) * 1.7)))
        x = x + self.grouped(y).mul(self.skipinit_gain) * 0.2
        return self.head(x.mean((2, 3)))


class ConvMixer(nn.Module):
    """Patches, then large depthwise filters with a residual and 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.BatchNorm2d(16)
        self.depth = nn.Conv2d(16, 16, 5, groups=16, padding="same")
        self.norm1, self.point, self.norm2 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.gelu(self.stem(x)))
        x = self.norm1(F.gelu(self.depth(x))) + x
        return self.head(self.norm2(F.gelu(self.point(x))))


class SubPixel(nn.Module):
    """Super-resolution: PReLU slopes, a pixel shuffle inside and one at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 8, 5, padding=2), nn.PReLU(8)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 32, 3, padding=1)
        self.last = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = x + self.one(x).relu() * 0.1
        return F.pixel_shuffle(self.last(F.pixel_shuffle(self.two(x), 2)), 2)


CONVOLUTIONAL: dict[str, Case] = {
    "efficientnet": Case(
        InvertedResidual,
        lambda: pixels(12),
        ENDS | NORM | {"*.weight": "hidden oikk spectral", "depthwise.weight": "depthwise bikk rownorm"},
    ),
    "senet": Case(
        SqueezeLinear,
        lambda: pixels(12),
        ENDS | {"conv.weight": "hidden oikk spectral", "fc.?.weight": "hidden oi spectral"},
    ),
    "regnet": Case(
        RegNet,
        lambda: pixels(12),
        ENDS
        | NORM
        | {
            "conv?.weight": "hidden oikk spectral",
            "conv2.weight": "hidden oikk spectral 8 8 8",
            "down.weight": "hidden oikk spectral",
            "point1.weight": "hidden oikk spectral 4 4 4",
            "point2.weight": "hidden oikk spectral 8 8 8",
        },
    ),
    "densenet": Case(
        DenseNet,
        lambda: pixels(12),
        ENDS
        | {
            "norms.*.weight": "gain o rms",
            "convs.*.weight": "hidden oikk spectral",
            "transition.weight": "hidden oikk spectral",
        },
    ),
    # A filter is standardised before it is used, so that only its direction counts; its axes are a convolution's still.
    "nfnet": Case(
        Standardised,
        lambda: pixels(12),
        ENDS
        | {
            "one.weight": "hidden oikk spectral",
            "t*.weight": "hidden oikk spectral",
            "grouped.weight": "hidden oikk spectral 8 8",
            "*.gain": "gain o--- rms",
            "skipinit_gain": "scalar  sign",
        },
    ),
    "convmixer": Case(
        ConvMixer,
        lambda: pixels(16),
        STEM
        | NORM
        | {
            "depth.weight": "depthwise bikk rownorm",
            "point.weight": "hidden oikk spectral",
            "head.2.weight": "output oi sign",
        },
    ),
    "sub-pixel": Case(
        SubPixel,
        lambda: pixels(8),
        STEM
        | {
            "act.weight": "gain o rms",
            "one.weight": "hidden oikk spectral",
            "two.weight": "hidden oikk spectral",
            "last.weight": "output oikk sign",
        },
    ),
}
