"""The one function of a model graph that is no ATen op: what a tensor holds after a write through an alias of it."""

from __future__ import annotations

import torch

from normc.trace.values import Structure


def after_write(old: torch.Tensor, write: Structure) -> torch.Tensor:
    """`old`, read after the node `write` has changed some or all of its storage. Shape and dtype of `old`.

    `y[:, :2].add_(c)` followed by a read of y is `after_write(y, add_)`, where add_ is the node whose first operand is
    the slice. A write to y itself needs none: later reads see the writing node. Executed on real tensors, `write`
    has already changed the memory that `old` shares, so `old` is the answer.
    """
    return old
