"""Who holds what, against the slow form, which cuts every axis for every rank; and owners, against a plain search."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from normc.update.runtime.spread import Held, _first_axis, _runs, held, shared_out

COPY = Replicate()
LIES: list[tuple[tuple[int, ...], tuple[Any, ...]]] = [
    ((1,), (Shard(0),)),
    ((8,), (COPY,)),
    ((8,), (Shard(0),)),
    ((5,), (Shard(1),)),
    ((2, 3), (COPY, Shard(0))),
    ((3, 2), (Shard(0), COPY)),
    ((2, 3), (Shard(0), Shard(1))),
    ((3, 2), (Shard(0), Shard(0))),
    ((3, 2), (_StridedShard(0, split_factor=2), Shard(0))),
    ((2, 3, 2), (COPY, _StridedShard(0, split_factor=2), Shard(0))),
    ((2, 2, 2), (Shard(1), COPY, _StridedShard(1, split_factor=3))),
]


def slow(shape: tuple[int, ...], mesh: tuple[int, ...], placements: tuple[Any, ...]) -> Held:
    """Every rank by itself, by torch's own chunks."""
    parts, alike = [], []
    copies = [axis for axis, placement in enumerate(placements) if placement.is_replicate()]
    for place in itertools.product(*map(range, mesh)):
        indices = [torch.arange(size) for size in shape]
        for axis, placement in enumerate(placements):
            if not placement.is_replicate():
                cut = _first_axis(placement)._split_tensor
                indices[placement.dim] = cut(indices[placement.dim], mesh[axis], with_padding=False)[0][place[axis]]
        parts.append(tuple(_runs(index.tolist()) for index in indices))
        alike.append(sum(place[axis] * math.prod(mesh[axis + 1 :]) for axis in copies))
    return Held(shape, tuple(parts), tuple(alike))


@pytest.mark.parametrize(("mesh", "placements"), LIES, ids=str)
@given(st.integers(0, 20), st.integers(0, 20))
def test_held_is_the_slow_form(mesh: tuple[int, ...], placements: tuple[Any, ...], rows: int, columns: int) -> None:
    assert held((rows, columns), mesh, placements) == slow((rows, columns), mesh, placements)


def test_a_sum_that_is_not_taken_is_refused() -> None:
    with pytest.raises(ValueError, match="Partial"):
        held((4, 4), (2,), (Partial(),))


@given(st.lists(st.integers(0, 10**18), max_size=40), st.integers(1, 9))
def test_owners_are_those_of_a_plain_search(costs: list[int], ranks: int) -> None:
    loads, owners = [0] * ranks, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        owners[index] = min(range(ranks), key=lambda rank: (loads[rank], rank))
        loads[owners[index]] += costs[index]
    assert shared_out(costs, ranks) == owners
