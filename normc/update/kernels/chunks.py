"""Stacks of matrices cut into runs that fit a workspace."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence


def chunks(counts: Sequence[int], sizes: Sequence[int], workspace: int) -> Iterator[tuple[int, int]]:
    """Runs start to stop of matrices, of which `counts[i]` take `sizes[i]` bytes each: as many as fit, at least one.

    As few runs as that takes, and these about alike.
    """
    each = [size for count, size in zip(counts, sizes, strict=True) for _ in range(count)]
    number = sum(1 for _ in _filled_up(each, workspace, math.inf))
    yield from _filled_up(each, workspace, sum(each) / max(number, 1))


def _filled_up(each: Sequence[int], most: float, enough: float) -> Iterator[tuple[int, int]]:
    """Runs of at most `most` bytes, each closed once all so far come to `enough` a run."""
    start, used, before, closed = 0, 0, 0, 0
    for place, size in enumerate(each):
        if place > start and (used + size > most or before >= enough * (closed + 1)):
            yield start, place
            start, used, closed = place, 0, closed + 1
        used, before = used + size, before + size
    if each:
        yield start, len(each)
