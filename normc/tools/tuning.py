"""Which tiles of symmetric products are fastest on this GPU: what `normc tune` measures, and where it keeps it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import torch

from normc.errors import NormcError
from normc.update.kernels.symmetric import symmetric
from normc.update.kernels.tiles import TILES, Tile, tile, tuned, tuned_file

try:
    from triton.runtime.errors import TritonError
except ImportError:
    TritonError = RuntimeError

FAILURES = (RuntimeError, TritonError)
# Largest tiles first; of 64 rows for small n.
CANDIDATES = (
    Tile(128, 2, 64, 4, 8, 3), Tile(128, 1, 64, 8, 4, 3), Tile(128, 2, 64, 8, 8, 4), Tile(128, 1, 64, 8, 8, 3),
    Tile(128, 1, 128, 8, 8, 3), Tile(64, 2, 64, 8, 4, 4), Tile(64, 1, 64, 8, 4, 4), Tile(64, 1, 128, 8, 4, 3),
)  # fmt: skip
GROUPS = (1, 4, 16)
WORK = 4e11  # floating-point operations of a dense product that is timed: half a millisecond on one H100


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of batched products of [n, k]: dense, with the tile in use, and with the fastest one."""

    n: int
    k: int
    batch: int
    dense: float
    used: Tile
    before: float
    best: Tile
    after: float


def candidates(n: int) -> Iterator[Tile]:
    """Tiles worth timing for a size."""
    for constants in CANDIDATES:
        if constants.block * constants.ratio <= max(n, 64) and (constants.block == 128 or n <= 1024):
            yield constants


def timed(run: Callable[[], object], budget: float = 0.04) -> float:
    """Median milliseconds of a call by device events, warmed up, in about `budget` seconds."""
    run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    repeats = max(3, min(30, int(budget / max(time.perf_counter() - begin, 1e-6))))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * repeats)]
    for before, after in zip(marks[::2], marks[1::2], strict=True):
        before.record()
        run()
        after.record()
    torch.cuda.synchronize()
    return float(statistics.median(a.elapsed_time(b) for a, b in zip(marks[::2], marks[1::2], strict=True)))


def fastest(n: int, k: int, batch: int) -> Timing:
    """The fastest tile for products of [batch, n, k] in fp16 on the current device, that in use among them."""
    x = torch.randn(batch, n, k, device="cuda", dtype=torch.float16) / k**0.5
    out = torch.empty(batch, n, n, device="cuda", dtype=torch.float16)
    dense = timed(lambda: torch.bmm(x, x.mT, out=out))
    used = tile(n, k, x.dtype, x.device)
    found: dict[Tile, float] = {}

    def attempt(constants: Tile) -> None:
        try:
            found[constants] = timed(lambda: symmetric(x, x, out=out, constants=constants))
        except FAILURES as failure:  # too much shared memory for this device
            if constants == used:
                raise NormcError(f"the tile in use for {n} x {k} doesn't run: {failure}", "delete its file") from None

    attempt(used)
    for constants in candidates(n):
        if constants not in found:
            attempt(constants)
    for group in GROUPS if n >= 1024 else ():
        attempt(replace(min(found, key=found.__getitem__), group=group))
    best = min(found, key=found.__getitem__)
    return Timing(n, k, batch, dense, used, found[used], best, found[best])


def tune(seconds: float, say: Callable[[str], object]) -> list[Timing]:
    """Measure the sizes of the shipped table for so many seconds, large ones first, and keep what is faster by 2 %.

    NormcError without a GPU. `say` gets a line for each size.
    """
    if not torch.cuda.is_available():
        raise NormcError("normc tune needs a CUDA device", "run it on the machine that trains")
    name = torch.cuda.get_device_name()
    end = time.monotonic() + seconds
    done: list[Timing] = []
    say(f"{name}, torch {torch.__version__}, fp16")
    heads = " ".join([f"{'n':>6} {'k':>6} {'batch':>6}", *(f"{head:>9}" for head in ("dense", "in use", "fastest"))])
    say(f"{heads}  ms; block, ratio, depth, group, warps, stages")
    for n, k in sorted(TILES, reverse=True):
        if time.monotonic() > end:
            say(f"out of time: {len(TILES) - len(done)} sizes are left as they are")
            break
        one = fastest(n, k, max(1, min(256, int(WORK / (2.0 * n * n * k)))))
        done.append(one)
        text = "as it is" if one.after > 0.98 * one.before else ", ".join(map(str, asdict(one.best).values()))
        say(f"{n:6} {k:6} {one.batch:6} {one.dense:9.3f} {one.before:9.3f} {one.after:9.3f}  {text}")
    kept = {size: own for size, own in tuned(name).items() if TILES.get(size) != own}
    kept |= {(one.n, one.k): one.best for one in done if one.after <= 0.98 * one.before}
    file = tuned_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    written = {"device": name, "tiles": {f"{n},{k}": asdict(own) for (n, k), own in kept.items()}}
    file.write_text(json.dumps(written, indent=1), encoding="utf-8")
    tuned.cache_clear()
    say(f"{len(kept)} of {len(TILES)} sizes have a tile of their own in {file}; steps made from now on use them")
    return done
