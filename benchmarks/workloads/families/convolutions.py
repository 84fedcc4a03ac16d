"""A ResNet with batch norms, and a plain ConvNet without any norm."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.pictured import pictured
from benchmarks.workloads.pictures import SIGNS
from benchmarks.workloads.workload import Task, workload
from workloads.tasks import Residual


class ResNet(nn.Module):
    """A stem, stages of residual blocks, the mean over pixels, a linear head."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        sizes = [width, 2 * width, 4 * width]
        stages = [
            Residual(size if block else max(width, size // 2), size, 1 if block or size == width else 2)
            for size in sizes
            for block in range(blocks)
        ]
        self.stages, self.head = nn.Sequential(*stages), nn.Linear(4 * width, len(SIGNS))

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, 32, 32] -> logits [n, 36]."""
        x = self.stages(F.relu(self.stem_norm(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class ConvNet(nn.Module):
    """Convolutions with biases and ReLUs, pooled between; He's initialisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [3, width, width, 2 * width, 2 * width, 4 * width, 4 * width]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes))
        self.last, self.head = nn.Linear(4 * width * 16, 4 * width), nn.Linear(4 * width, len(SIGNS))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, 32, 32] -> logits [n, 36]."""
        for index, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            x = F.max_pool2d(x, 2) if index % 2 else x
        logits: Tensor = self.head(F.relu(self.last(x.flatten(1))))
        return logits


@workload("resnet", "ResNet with batch norms on pictures of letters and digits", images=True)
def resnet(quick: bool, seed: int, device: str) -> Task:
    """Width 8 and a block a stage, or width 32 and 2."""
    width, blocks = (8, 1) if quick else (32, 2)
    return pictured(lambda: ResNet(width, blocks), quick, seed, device)


@workload("convnet", "ConvNet without norms on pictures of letters and digits", images=True)
def convnet(quick: bool, seed: int, device: str) -> Task:
    """Width 8 or 32."""
    return pictured(lambda: ConvNet(8 if quick else 32), quick, seed, device)
