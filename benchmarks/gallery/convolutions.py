"""Filters: dense, depthwise, behind patches, and parameters that have their form without being one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gallery.entry import LINEAR, PLAIN, TRANSFORMERS, Entry, issue, pull, released
from tests.zoo.case import Case, pixels, tokens
from tests.zoo.generative import UNet

BIAS = {"*bias": "bias o sign"}
CONV = "hidden oikk spectral"


class Conv(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inside: int, outside: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, channels, height, width]."""
        return F.silu(self.bn(self.conv(x)))


class Attention(nn.Module):
    """Attention over pixels: narrow q and k beside wide v in one 1x1 filter; places by a depthwise one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.wide, self.slim = heads, width // heads, width // heads // 2
        self.qkv, self.proj, self.pe = Conv(width, 2 * width), Conv(width, width), Conv(width, width, 3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, channels, height, width]."""
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).view(b, self.heads, -1, h * w).split([self.slim, self.slim, self.wide], 2)
        shares = (q.transpose(-2, -1) @ k * self.slim**-0.5).softmax(-1)
        y = (v @ shares.transpose(-2, -1)).view(b, c, h, w)
        out: Tensor = self.proj(y + self.pe(v.reshape(b, c, h, w)))
        return out


class Detector(nn.Module):
    """A stem, a bottleneck on half the channels, attention, and towers for boxes and classes."""

    def __init__(self, width: int = 128, classes: int = 80) -> None:
        super().__init__()
        half = width // 2
        self.stem, self.down = Conv(3, half, 3, 2), Conv(half, width, 3, 2)
        self.cv1, self.m1, self.m2, self.cv2 = (
            Conv(width, width), Conv(half, half // 2, 3), Conv(half // 2, half, 3), Conv(3 * half, width),
        )  # fmt: skip
        self.attn = Attention(width, 2)
        self.boxes = nn.Sequential(Conv(width, 64, 3), nn.Conv2d(64, 4, 1))
        self.classes = nn.Sequential(
            Conv(width, width, 3, groups=width), Conv(width, classes), Conv(classes, classes, 3, groups=classes),
            Conv(classes, classes), nn.Conv2d(classes, classes, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [batch, channels, height, width]."""
        one, other = self.cv1(self.down(self.stem(x))).chunk(2, 1)
        x = self.cv2(torch.cat((one, other, other + self.m2(self.m1(other))), 1))
        x = x + self.attn(x)
        return self.boxes(x), self.classes(x)


class ConvNeXtBlock(nn.Module):
    """Depthwise filter, norm over channels, two linear layers, and a scale of shape (channels, 1, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, channels, height, width]."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        out: Tensor = x + self.layer_scale * self.pwconv2(F.gelu(self.pwconv1(y))).permute(0, 3, 1, 2)
        return out


class ConvNeXt(nn.Module):
    """Two stages of one block each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 96, 4, 4), ConvNeXtBlock(96)
        self.norm, self.down, self.two = nn.BatchNorm2d(96), nn.Conv2d(96, 192, 2, 2), ConvNeXtBlock(192)
        self.classifier = nn.Linear(192, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, channels, height, width]."""
        out: Tensor = self.classifier(self.two(self.down(self.norm(self.one(self.stem(x))))).mean((2, 3)))
        return out


class CausalConvs(nn.Module):
    """A stack of equal causal convolutions over time, each with a shortcut."""

    def __init__(self, layers: int = 3, width: int = 64) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(512, width), nn.Linear(width, 512, bias=False)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, bias=False) for _ in range(layers))
        self.short = nn.Conv1d(width, width, 4, groups=width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, places]."""
        x = self.embed(ids).mT
        for conv in self.convs:
            x = x + conv(F.pad(x, (2, 0))).relu()
        out: Tensor = self.head((x * F.silu(self.short(F.pad(x, (3, 0))))).mT)
        return out


CONVOLUTIONS: dict[str, Entry] = {
    "yolo": Entry(
        "YOLO: filters of every form",
        Case(
            Detector,
            lambda: pixels(32),
            BIAS
            | {
                "stem.conv.weight": "input oikk spectral",
                "*.conv.weight": CONV,
                # Its halves part at once: in older YOLOs they are two layers.
                "cv1.conv.weight": "hidden oikk spectral 64 64",
                "cv1.bn.weight": "gain o sign 64 64",
                "cv1.bn.bias": "bias o sign 64 64",
                "attn.qkv.conv.weight": "hidden oikk spectral ~64 ~64 ~128",
                "attn.qkv.bn.weight": "gain o sign ~64 ~64 ~128",
                "attn.qkv.bn.bias": "bias o sign ~64 ~64 ~128",
                "attn.pe.conv.weight": "depthwise bikk sign",
                "classes.0.conv.weight": "depthwise bikk sign",
                "classes.2.conv.weight": "depthwise bikk sign",
                "boxes.1.weight": "output oikk sign",
                "classes.4.weight": "output oikk sign",
                "*.bn.weight": "gain o sign",
            },
        ),
        ("attn.pe.conv.weight", "attn.qkv.conv.weight", "down.conv.weight"),
        PLAIN.format("convolutions.py", "ultralytics' YOLO26"),
        "A filter of (out, in, k, k) has fan-in in · k², and its window is no size to scale by. A depthwise "
        "filter is one "
        "window a channel. The 1x1 filter `qkv` holds three parts for each head.",
        (
            pull(
                "ultralytics/ultralytics",
                25846,
                "the step's size was read from the kernel's sides: up to 5.3 times too small, "
                "worst for depthwise filters.",
            ),
            issue("KellerJordan/Muon", 63, "the same in the optimizer that it came from."),
        ),
    ),
    "convnext": Entry(
        "ConvNeXt: depthwise filters and layer scale",
        Case(
            ConvNeXt,
            lambda: pixels(32),
            BIAS
            | {
                "stem.weight": "input oikk spectral",
                "*.dwconv.weight": "depthwise bikk sign",
                "*.pwconv?.weight": LINEAR,
                "*.layer_scale": "gain o-- sign",
                "*norm.weight": "gain o sign",
                "down.weight": CONV,
                "classifier.weight": "output oi sign",
            },
        ),
        ("*.layer_scale", "*.dwconv.weight"),
        PLAIN.format("convolutions.py", "torchvision's ConvNeXt"),
        "`layer_scale` has three axes, (channels, 1, 1), and is a gain. The 7x7 filters are depthwise. The head "
        "is called "
        "`classifier`.",
        (
            pull(
                "ultralytics/ultralytics",
                25447,
                "Muon crashed on a scale of shape (C, 1, 1), since it has two axes or more.",
            ),
            pull(
                "huggingface/pytorch-image-models", 2791, "steps of filters were 5.7 to 512 times too small in AdaMuon."
            ),
        ),
    ),
    "vit": Entry(
        "ViT: patches, places and a token",
        Case(
            released("ViTForImageClassification", num_hidden_layers=1),
            lambda: {"pixel_values": pixels(224)},
            BIAS
            | {
                "*.cls_token": "token --o sign",
                "*.position_embeddings": "position -xo sign",
                "*.patch_embeddings.projection.weight": "input oikk spectral",
                "*_proj.weight": LINEAR,
                "*.fc?.weight": LINEAR,
                "*layernorm*.weight": "gain o sign",
                "classifier.weight": "output oi sign",
            },
        ),
        ("*.patch_embeddings.projection.weight", "classifier.weight", "*.cls_token"),
        TRANSFORMERS.format("ViTForImageClassification", "one layer"),
        "The patch embedding is the matrix of the input, although its name says embedding. The class token and "
        "the table of "
        "places have three axes and are no matrices. The head is `classifier`.",
        (
            pull(
                "huggingface/pytorch-image-models",
                2791,
                "the patch embedding of ViT-Ti/16 took steps 24 times too small.",
            ),
            issue("KellerJordan/Muon", 31, "asks whether the patchify layer counts as hidden, and what is a head."),
        ),
    ),
    "resnet": Entry(
        "ResNet: filters of four axes",
        Case(
            released("ResNetForImageClassification", depths=[1, 1], hidden_sizes=[256, 512]),
            lambda: {"pixel_values": pixels(64)},
            BIAS
            | {
                "resnet.embedder.embedder.convolution.weight": "input oikk spectral",
                "*.convolution.weight": CONV,
                "*.normalization.weight": "gain o sign",
                "classifier.1.weight": "output oi sign",
            },
        ),
        (
            "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight",
            "classifier.1.weight",
            "resnet.embedder.embedder.convolution.weight",
        ),
        TRANSFORMERS.format("ResNetForImageClassification", "the first two stages, one layer each"),
        "Nearly all entries lie in filters of four axes. An optimizer that takes matrices alone leaves them to "
        "AdamW, and "
        "one that takes whatever has two axes takes the head too. The first layer's embedder is a filter of the "
        "input.",
        (
            pull("pytorch/pytorch", 180561, "torch's Muon refuses filters; no reshape outside of it works."),
            issue("lightvector/KataGo", 1165, "moving to torch's Muon would mean to reshape filters outside of it."),
        ),
    ),
    "causal-convolutions": Entry(
        "Equal convolutions in a stack",
        Case(
            CausalConvs,
            tokens,
            {
                "embed.weight": "embedding xo sign",
                "head.weight": "output oi sign",
                "convs.?.weight": "hidden oik spectral",
                "short.weight": "depthwise bik sign",
            },
        ),
        ("convs.0.weight", "short.weight"),
        PLAIN.format("convolutions.py", "a causal convolutional language model"),
        "Three filters of one form, (64, 64, 3), each a matrix of 64 by 192 of its own. When they are stacked "
        "for speed, the "
        "stack's axis is no axis of theirs. The fourth filter has one window a channel.",
        (
            issue("microsoft/dion", 119, "`flatten=True` was right for one filter of a form, and wrong for several."),
            pull("microsoft/dion", 121, "filters of one form were orthogonalised across layers."),
            pull("allenai/OLMo-core", 606, "flattens the causal filters of linear attention so that Muon takes them."),
        ),
    ),
    "unet": Entry(
        "A diffusion U-Net",
        Case(
            UNet,
            lambda: (pixels(8), torch.tensor([3.0, 7.0]), torch.tensor([1, 4])),
            BIAS
            | {
                "time1.weight": "input oi spectral",
                "time2.weight": LINEAR,
                "label.weight": "embedding xo sign",
                "stem.weight": "input oikk spectral",
                "*.conv?.weight": CONV,
                "*.time.weight": "hidden oi spectral 8 8",
                "*.time.bias": "bias o sign 8 8",
                "*norm*.weight": "gain o sign",
                "down.weight": CONV,
                "up.weight": "hidden iokk spectral",
                "two.skip.weight": CONV,
                "qkv.weight": "hidden oik spectral ~16 ~16 ~16",
                "qkv.bias": "bias o sign ~16 ~16 ~16",
                "proj.weight": "hidden oik spectral",
                "last.weight": "output oikk sign",
            },
        ),
        ("up.weight", "*.time.weight", "qkv.weight", "last.weight"),
        "a small U-Net in plain PyTorch ([generative.py](../../tests/zoo/generative.py)), built as the usual ones are",
        "The transposed filter `up` is stored (in, out, k, k). `time` makes a scale and a shift, two blocks. "
        "`label` is a "
        "table, without embed in its name; `last` is a head without head in its name.",
        (
            issue(
                "kohya-ss/musubi-tuner",
                386,
                "asks for Muon; its manual wants to know body, head and embed of the model.",
            ),
            pull(
                "pytorch/pytorch", 180561, "filters are refused, and a helper that would sort parameters is proposed."
            ),
        ),
    ),
}
