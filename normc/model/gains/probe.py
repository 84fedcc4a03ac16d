"""Ops without a gain rule, or at operands for which two moments say too little, are tried out: run, and moved a little.

Operands are drawn together where the ops before them can be run (normc/model/gains/sample.py), else each by itself,
as a Gaussian of the size tracked.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from normc.model.gains.local import At, Back, Local, Size, TailsError, floats, sign_of
from normc.model.gains.sample import LARGEST, entries_of, operand_of, run

_STEP = 1e-4


def probed(at: At, problem: LookupError | None = None) -> Local:
    """Size and average gains, measured with forward differences. LookupError if the op can't be run that way.

    `problem`: why the op's rule gave up. If it was the tails of a Gaussian, operands must be drawn together.
    """
    operands = list(dict.fromkeys(at.data))
    nodes = dict.fromkeys(at.node.all_input_nodes)
    if at.model.nominal or not operands or not callable(at.node.target):
        raise LookupError(at.name)
    if sum(entries_of(node) for node in (*nodes, at.node)) > LARGEST:
        raise LookupError(f"{at.name} is too large to try out")
    generator = torch.Generator().manual_seed(0)
    feeds = _feeds(at, nodes, generator, together=isinstance(problem, TailsError))
    before = _first(at, feeds)
    back = []
    for operand in operands:
        step = _STEP * max(_rms(feeds[operand]), 1e-12)
        moved = torch.randn(feeds[operand].shape, generator=generator, dtype=torch.float64).to(feeds[operand].dtype)
        after = _first(at, {**feeds, operand: feeds[operand] + step * moved})
        back.append(Back(operand, _rms(after - before) / step))
    size = measured(before)
    if not all(math.isfinite(number) for number in (size.rms, *(use.gain for use in back))):
        raise LookupError(f"{at.name} isn't finite on Gaussian operands")
    return Local(size, tuple(back), "probe", isinstance(problem, TailsError))


def _feeds(at: At, nodes: dict[fx.Node, None], generator: torch.Generator, together: bool) -> dict[fx.Node, Any]:
    try:
        return {node: operand_of(at, node) for node in nodes}
    except LookupError:
        if together:
            raise
    return {node: _stand_in(at, node, generator) for node in nodes}


def _stand_in(at: At, node: fx.Node, generator: torch.Generator) -> Tensor:
    """The constant itself, a Gaussian activation of its size, a Gaussian weight of norm 1."""
    concrete, value = node.meta.get("concrete"), node.meta.get("val")
    if isinstance(concrete, Tensor):
        return concrete.double() if concrete.dtype.is_floating_point else concrete
    if not isinstance(value, Tensor) or not floats(node):
        raise LookupError(f"{at.name} takes {node.name}, which isn't known")
    kind = torch.complex128 if value.dtype.is_complex else torch.float64
    drawn = torch.randn(tuple(value.shape), generator=generator, dtype=kind)
    if at.kind(node) == "data":
        size = at.size(node)
        return drawn * size.deviation + size.mean
    return drawn / math.sqrt(max(value.shape[-1], 1)) if value.dim() > 1 else torch.ones_like(drawn)


def _first(at: At, feeds: dict[fx.Node, Any]) -> Tensor:
    out = run(at.node, feeds)
    first = out[0] if isinstance(out, (tuple, list)) and out else out
    if not isinstance(first, Tensor) or not (first.dtype.is_floating_point or first.dtype.is_complex):
        raise LookupError(str(at.node.target))
    return first


def measured(entries: Tensor) -> Size:
    """Moments and sign of what came out; what is masked (not finite) doesn't count."""
    seen = entries[torch.isfinite(entries)].real
    sign = sign_of(seen) if seen.numel() else 0
    return Size(_rms(entries), float(seen.mean()) if seen.numel() else 0.0, sign)


def _rms(tensor: Tensor) -> float:
    seen = tensor[torch.isfinite(tensor)]
    return float(seen.abs().double().square().mean().sqrt()) if seen.numel() else 0.0
