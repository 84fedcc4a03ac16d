"""Tile constants of the symmetric product, by (n, k): measured once, shipped, so that nothing is tuned at start-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Tile:
    """One program works on `block` rows and `ratio * block` columns of C, in steps of `depth` along k.

    `group` rows of tiles are walked together, column by column, so that neighbours find their operands in the L2.
    """

    block: int
    ratio: int
    depth: int
    group: int
    warps: int
    stages: int


# 16-bit operands on Hopper: (n, k) of a product, and its tile. Others take the nearest by ratio.
TILES: dict[tuple[int, int], Tile] = {
    (64, 64): Tile(64, 1, 64, 8, 4, 4),
    (256, 256): Tile(64, 1, 64, 8, 4, 4),
    (256, 4096): Tile(64, 1, 128, 4, 4, 3),
    (512, 512): Tile(128, 1, 64, 8, 4, 3),
    (768, 768): Tile(128, 1, 64, 8, 4, 3),
    (768, 3072): Tile(128, 1, 64, 8, 4, 3),
    (1024, 1024): Tile(128, 1, 64, 4, 4, 3),
    (1600, 1600): Tile(128, 2, 64, 4, 8, 3),
    (1600, 6400): Tile(128, 2, 64, 4, 8, 3),
    (2048, 2048): Tile(128, 2, 64, 4, 8, 3),
    (4096, 4096): Tile(128, 2, 64, 4, 8, 3),
}

# Wider operands, which only tests and old checkpoints multiply, and devices with less shared memory than Hopper.
WIDE = Tile(32, 1, 32, 4, 4, 2)
BEFORE_HOPPER = Tile(128, 1, 32, 8, 8, 3)

# From which n on a product known to be symmetric beats a dense one, and about what share of its time it takes at some n
# (on one H100 beside torch.bmm in fp16): by type of device. On CPU such a product is halved into dense ones, down to a
# block.
SYMMETRIC_FROM: dict[str, int] = {"cuda": 512, "cpu": 384}
SYMMETRIC_SHARE: dict[str, dict[int, float]] = {
    "cuda": {768: 0.97, 1600: 0.77, 4096: 0.65},
    "cpu": {384: 0.85, 512: 0.75, 768: 0.7, 1024: 0.65},
}
CPU_BLOCK = 128
PARALLEL_BLOCK = 384  # with several threads, which wait for each other after each product


def tile(
    n: int, k: int, dtype: torch.dtype, device: torch.device, table: Mapping[tuple[int, int], Tile] = TILES
) -> Tile:
    """The tile for C [n, n] from operands [n, k]: that of the entry nearest in log n and log k, n weighing more."""
    if dtype.itemsize > 2:
        return WIDE
    near = table[min(table, key=lambda size: 2 * _apart(size[0], n) + _apart(size[1], k))]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0):
        return BEFORE_HOPPER if near.block >= BEFORE_HOPPER.block else near
    return near


def symmetric_share(n: int, device: torch.device) -> float:
    """What share of a dense product's time one that is known to be symmetric takes: that of the n nearest by ratio."""
    known = SYMMETRIC_SHARE[device.type]
    return known[min(known, key=lambda size: _apart(size, n))]


def _apart(one: int, other: int) -> float:
    return abs(math.log(max(one, 1) / max(other, 1)))
