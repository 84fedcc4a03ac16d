"""vector-quantize-pytorch: quantisers between a linear encoder and decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("vector-quantize-pytorch",)
MODULES = ("vector_quantize_pytorch",)


class Around(nn.Module):
    """A quantiser between two linear layers; what it says beside the quantised vectors is part of the output."""

    def __init__(self, quantiser: nn.Module, width: int) -> None:
        super().__init__()
        self.encode, self.quantiser, self.decode = nn.Linear(10, width), quantiser, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Any:
        """x: [batch, time, 10]."""
        quantised, *rest = self.quantiser(self.encode(x))
        return self.decode(quantised), rest


def _around(kind: str, width: int, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        quantiser = getattr(library("vector_quantize_pytorch"), kind)(**options)
        return of(Around(quantiser, width), torch.randn(2, 8, 10))

    return build


MODELS: dict[str, Build] = {
    "vq": _around("VectorQuantize", 24, dim=24, codebook_size=32),
    "vq-learned": _around("VectorQuantize", 24, dim=24, codebook_size=32, learnable_codebook=True, ema_update=False),
    "vq-cosine": _around("VectorQuantize", 24, dim=24, codebook_size=32, codebook_dim=8, use_cosine_sim=True),
    "vq-heads": _around("VectorQuantize", 24, dim=24, codebook_size=32, heads=2, codebook_dim=8,
                        separate_codebook_per_head=True),
    "vq-directional": _around("VectorQuantize", 24, dim=24, codebook_size=32, rotation_trick=True),
    "residual-vq": _around("ResidualVQ", 24, dim=24, codebook_size=32, num_quantizers=2),
    "grouped-residual": _around("GroupedResidualVQ", 24, dim=24, codebook_size=32, num_quantizers=2, groups=2),
    "fsq": _around("FSQ", 24, dim=24, levels=[5, 4, 3]),
    "residual-fsq": _around("ResidualFSQ", 24, dim=24, levels=[5, 4, 3], num_quantizers=2),
    "lfq": _around("LFQ", 24, dim=24, codebook_size=64),
    "residual-lfq": _around("ResidualLFQ", 24, dim=24, codebook_size=64, num_quantizers=2),
    "sim-vq": _around("SimVQ", 24, dim=24, codebook_size=32),
    "residual-sim-vq": _around("ResidualSimVQ", 24, dim=24, codebook_size=32, num_quantizers=2),
    "latent": _around("LatentQuantize", 24, dim=24, levels=[5, 5, 8], num_codebooks=1),
}  # fmt: skip
