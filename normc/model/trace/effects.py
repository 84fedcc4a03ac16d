"""Writes: what an op writes to, and the one function of a model graph that is no ATen op, which reads after a write."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from normc.model.trace.values import Structure, tensors_in

# Ops that write to operands without saying so in their schema, by name: the places of those operands.
_UNDECLARED = {"batch_norm": (3, 4), "instance_norm": (3, 4), "native_batch_norm": (3, 4)}


def after_write(old: torch.Tensor, write: Structure) -> torch.Tensor:
    """`old`, read after the node `write` has changed some or all of its storage. Shape and dtype of `old`.

    `y[:, :2].add_(c)` followed by a read of y is `after_write(y, add_)`, where add_ is the node whose first operand is
    the slice. A write to y itself needs none: later reads see the writing node. Executed on real tensors, `write`
    has already changed the memory that `old` shares, so `old` is the answer.
    """
    return old


def is_seen(write: fx.Node, base: fx.Node) -> bool:
    """Whether autograd records that `write` changes `base`: not under no_grad, nor through a detached view of it."""
    at = write
    while at is not base and at.target is not torch.ops.aten.detach.default and at.args:
        source = at.args[0]
        if not isinstance(source, fx.Node) or (at is not write and not _is_view(at.target)):
            break
        at = source
    return bool(write.meta.get("grad", True)) and (at is base or at.target is not torch.ops.aten.detach.default)


def _is_view(target: object) -> bool:
    returns = target._schema.returns if isinstance(target, torch._ops.OpOverload) else ()
    return bool(returns) and returns[0].alias_info is not None  # type: ignore[misc]  # torch says that it is ()


def written_by(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The operands that `func` writes to."""
    hidden = _UNDECLARED.get(func.overloadpacket.__name__)
    if hidden is not None:
        return [args[place] for place in hidden if len(args) > 5 and args[5] and isinstance(args[place], Tensor)]
    if not func._schema.is_mutable:
        return []
    found: list[Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += tensors_in(args[place] if place < len(args) else kwargs.get(argument.name))
    return found
