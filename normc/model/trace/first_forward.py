"""Waiting for a model's first real forward, where nothing else says what it eats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle


def on_first_forward(model: nn.Module, callback: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> RemovableHandle:
    """Call `callback(args, kwargs)` once, before the model's first forward on real tensors; a trace's don't count.

    The hook removes itself first, so the callback sees the model as it was. `handle.remove()` cancels.
    """

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [*pytree.tree_leaves((args, kwargs)), next(module.parameters(), None)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return
        handle.remove()
        callback(args, kwargs)

    before._torchdynamo_disable = True  # type: ignore[attr-defined]  # runs as Python, also inside a compiled model
    handle = model.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
    return handle
