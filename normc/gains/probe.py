"""Ops without a gain rule are tried out: run on Gaussian operands of the sizes tracked, and moved a little."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from normc.gains.local import At, Back, Local, Size, floats

LARGEST = 4_000_000


def probed(at: At) -> Local:
    """Size and average gains, measured with forward differences. LookupError if the op can't be run that way."""
    operands = list(dict.fromkeys(at.data))
    nodes = at.node.all_input_nodes
    if at.model.nominal or not operands or not callable(at.node.target):
        raise LookupError(at.name)
    if sum(_entries(node) for node in (*nodes, at.node)) > LARGEST:
        raise LookupError(f"{at.name} is too large to try out")
    generator = torch.Generator().manual_seed(0)
    try:
        feeds = {node: _stand_in(at, node, generator) for node in dict.fromkeys(nodes)}
        before = _run(at.node, feeds)
        back = []
        for operand in operands:
            step = 1e-4 * max(at.rms(operand), 1e-12)
            moved = torch.randn(feeds[operand].shape, generator=generator, dtype=torch.float64).to(feeds[operand].dtype)
            after = _run(at.node, {**feeds, operand: feeds[operand] + step * moved})
            back.append(Back(operand, _rms(after - before) / step))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as problem:
        raise LookupError(f"{at.name} can't be tried out: {type(problem).__name__}") from None
    size = Size(_rms(before), float(before.real.mean()))
    if not all(math.isfinite(number) for number in (size.rms, *(use.gain for use in back))):
        raise LookupError(f"{at.name} isn't finite on Gaussian operands")
    return Local(size, tuple(back), "probe")


def _entries(node: fx.Node) -> int:
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else (value,)
    return sum(math.prod(item.shape) for item in values if isinstance(item, Tensor))


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


def _run(node: fx.Node, feeds: dict[fx.Node, Tensor]) -> Tensor:
    args = fx.node.map_arg(node.args, lambda operand: feeds[operand].clone())
    kwargs: Any = fx.node.map_arg(node.kwargs, lambda operand: feeds[operand].clone())
    assert callable(node.target)
    out = node.target(*args, **kwargs)
    first = out[0] if isinstance(out, (tuple, list)) else out
    if not isinstance(first, Tensor) or not (first.dtype.is_floating_point or first.dtype.is_complex):
        raise LookupError(str(node.target))
    return first


def _rms(tensor: Tensor) -> float:
    return float(tensor.abs().double().square().mean().sqrt()) if tensor.numel() else 0.0
