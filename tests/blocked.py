"""Rows whose matrices are parts of a tensor, and the parts cut out by plain indexing."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from normc.plans.row import Block


class Case(NamedTuple):
    """A layout: the tensor's shape, and facts of its row."""

    name: str
    shape: tuple[int, ...]
    facts: dict[str, Any]


BLOCKED = [
    Case("fused", (12, 5), {"blocks": tuple(Block(part, 0, ((4 * i, 4 * i + 4),)) for i, part in enumerate("qkv"))}),
    Case(
        "interleaved",
        (12, 5),
        {"blocks": (Block("a", 0, ((0, 2), (4, 6), (8, 10))), Block("b", 0, ((2, 4), (6, 8), (10, 12))))},
    ),
    Case("unequal", (7, 5), {"blocks": (Block("a", 0, ((0, 2), (4, 7))), Block("b", 0, ((2, 4),)))}),
    Case("along fan-in", (5, 7), {"blocks": (Block("a", 1, ((0, 3),)), Block("b", 1, ((3, 7),)))}),
    Case("experts", (3, 5, 4), {"block_axes": (0,), "in_axes": (1,), "out_axes": (2,)}),
    Case("filters", (4, 3, 2, 2), {"kernel_axes": (2, 3)}),
]


def parts(case: Case, x: Tensor) -> list[Tensor]:
    """The matrices [out, in] of a tensor of the case's shape: its blocks, its experts, or its filters as rows."""
    if blocks := case.facts.get("blocks"):
        return [torch.cat([x.narrow(b.axis, start, end - start) for start, end in b.spans], b.axis) for b in blocks]
    return list(x.mT) if "block_axes" in case.facts else [x.flatten(1)]
