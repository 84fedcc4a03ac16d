"""Matrix kernels: symmetric products, Newton-Schulz in the Gram form, and of many small matrices in one launch.

Needs torch alone; on CUDA, Triton too.
"""

from __future__ import annotations

from normc.kernels.cost import Form, form, work
from normc.kernels.language import runs_kernels
from normc.kernels.polar import polar_gram, polar_many, polar_standard
from normc.kernels.small import small
from normc.kernels.symmetric import symmetric
from normc.kernels.tiles import TILES, Tile, tile

__all__ = [
    "TILES",
    "Form",
    "Tile",
    "form",
    "polar_gram",
    "polar_many",
    "polar_standard",
    "runs_kernels",
    "small",
    "symmetric",
    "tile",
    "work",
]
