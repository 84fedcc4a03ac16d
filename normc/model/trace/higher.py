"""Higher-order ops run in sight: what their functions compute, and read from outside, becomes dataflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.nn import functional as F
from torch.utils import _pytree as pytree


def body_of(func: Any, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    """What to run in the place of the higher-order op `func`; None for an op, or where no operand is a function.

    RuntimeError if nothing is known that runs it in plain ops.
    """
    if isinstance(func, torch._ops.OpOverload) or not any(map(callable, args)):
        return None
    body: Callable[..., Any] | None = _BODIES.get(func.name())
    if body is None:
        body = func.py_kernels.get(DispatchKey.CompositeExplicitAutograd)
    if body is None:
        raise RuntimeError("nothing says how it runs in plain ops, and what its functions read would not be seen")
    return body


def both_branches(predicate: Any, yes: Callable[..., Any], no: Callable[..., Any], operands: Any = ()) -> Any:
    """torch.cond, with both branches: each entry of the result comes from one of them."""

    def chosen(first: Any, second: Any) -> Any:
        if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.shape != second.shape:
            return first if predicate else second
        return torch.where(torch.as_tensor(predicate, device=first.device).reshape(()), first, second)

    return pytree.tree_map(chosen, yes(*operands), no(*operands))


def attention(
    query: Tensor, key: Tensor, value: Tensor, score_mod: Callable[..., Tensor], block_mask: Any, scale: float, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """flex_attention in plain ops: the attention, log2 of the sum of exponentials, and the largest score.

    It is one op where scores are only masked.
    """
    from torch.nn.attention import flex_attention as flex

    places = [torch.arange(n, device=query.device) for n in (*query.shape[:3], key.shape[2])]
    mask_mod = block_mask[-1] if isinstance(block_mask, tuple) else None
    mask = None
    if callable(mask_mod) and mask_mod is not flex.noop_mask:
        with _indexing():
            mask = flex._vmap_for_bhqkv(mask_mod, ())(*places)
    groups = query.shape[1] // key.shape[1]
    aside = query.new_zeros(query.shape[:3])
    if score_mod is getattr(flex, "_identity", None):
        out = F.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=groups > 1)
        return out, aside, aside
    if groups > 1:
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    scores = query @ key.transpose(-2, -1) * scale
    with _indexing():
        scores = flex._vmap_for_bhqkv(score_mod, (0,))(scores, *places)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ value, aside, aside


def scanned(combine: Callable[..., Any], init: Any, xs: Any, additional: Any = ()) -> list[Any]:
    """torch's scan, step by step along the first axis: what is carried out of the last step, and all steps' results."""
    carried, rows = list(init), []
    for step in range(xs[0].shape[0]):
        out = combine(*carried, *(x.select(0, step) for x in xs), *additional)
        carried = list(out[: len(carried)])
        rows.append(out[len(carried) :])
    return [*carried, *(torch.stack(column) for column in zip(*rows, strict=True))]


def _indexing() -> Any:
    """Inside, a tensor picks an entry as its value says, also where it stands for one place of many."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()


_BODIES: dict[str, Callable[..., Any]] = {"cond": both_branches, "flex_attention": attention, "scan": scanned}
