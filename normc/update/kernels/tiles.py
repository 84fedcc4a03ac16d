"""Tile constants of the symmetric product, by (n, k): measured once, shipped, so that nothing is tuned at start-up."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

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
    "cuda": {512: 1.0, 768: 0.92, 1024: 0.82, 1600: 0.7, 2048: 0.66, 4096: 0.57},
    "cpu": {384: 0.85, 512: 0.75, 768: 0.7, 1024: 0.65},
}
# From which n on products of quack-kernels are faster, and by how much at least (one H100, fp16: by 4 to 10 %).
HOPPER_FROM = 4096
HOPPER_SAVES = 0.04
# From which n on products that only commute are computed by halves in 16 bits: products.mirrors says why not before.
MIRRORED_FROM = 1536
CPU_BLOCK = 128
PARALLEL_BLOCK = 384  # with several threads, which wait for each other after each product


def tile(
    n: int, k: int, dtype: torch.dtype, device: torch.device, table: Mapping[tuple[int, int], Tile] | None = None
) -> Tile:
    """The tile for C [n, n] from operands [n, k]: that of the entry nearest in log n and log k, n weighing more.

    Of TILES, and in place of these what `normc tune` found on such a device.
    """
    if dtype.itemsize > 2:
        return WIDE
    if table is None:
        there = device.type == "cuda" and torch.cuda.is_available()
        table = tuned(torch.cuda.get_device_name(device)) if there else TILES
    near = table[min(table, key=lambda size: 2 * _apart(size[0], n) + _apart(size[1], k))]
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0):
        return BEFORE_HOPPER if near.block >= BEFORE_HOPPER.block else near
    return near


def tuned_file(name: str) -> Path:
    """Where `normc tune` keeps the tiles of devices of a name: in $NORMC_CACHE, by default ~/.cache/normc."""
    folder = Path(os.environ.get("NORMC_CACHE") or Path.home() / ".cache" / "normc")
    plain = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    return folder / f"tiles-{plain}.json"


@lru_cache(maxsize=8)
def tuned(name: str) -> Mapping[tuple[int, int], Tile]:
    """TILES with what was measured on a device of this name, if it was; a file that can't be read is warned of."""
    file = tuned_file(name)
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {**TILES, **{_size(key): _tile(value) for key, value in found["tiles"].items()}} if found else TILES
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(f"the tiles in {file} are left out: {reason}. `normc tune` writes it anew", stacklevel=2)
        return TILES


def _size(text: str) -> tuple[int, int]:
    n, k = text.split(",")
    return int(n), int(k)


def _tile(value: Any) -> Tile:
    found = Tile(**value)
    powers = (found.block, found.ratio, found.depth, found.warps)
    if not all(type(one) is int and 0 < one <= 512 and one & (one - 1) == 0 for one in powers):
        raise ValueError("sizes are powers of two up to 512")
    if not all(type(one) is int and 0 < one <= 64 for one in (found.group, found.stages)):
        raise ValueError("group and stages are whole numbers up to 64")
    return found


def symmetric_share(n: int, device: torch.device) -> float:
    """What share of a dense product's time one that is known to be symmetric takes: that of the n nearest by ratio."""
    known = SYMMETRIC_SHARE[device.type]
    return known[min(known, key=lambda size: _apart(size, n))]


def _apart(one: int, other: int) -> float:
    return abs(math.log(max(one, 1) / max(other, 1)))
