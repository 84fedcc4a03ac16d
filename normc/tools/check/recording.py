"""What every module gives in one forward, and every attention's logits, by module path."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normc.model.trace.values import tensor_leaves

LOGITS = "attention logits"
OUTPUT = "output"


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """By path, the first float tensor that each module returned inside; `path attention logits` what a softmax saw.

    The model's own is `output`. A module that runs more than once counts as it did the first time.
    """
    found: dict[str, Tensor] = {}
    path: list[str] = []

    def enter(name: str) -> Any:
        return lambda *_: path.append(name)

    def leave(name: str) -> Any:
        def hook(module: nn.Module, args: object, result: object) -> None:
            path.pop()
            tensor = first_float(result)
            if tensor is not None:
                found.setdefault(name or OUTPUT, tensor.detach().clone())

        return hook

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(_removing(module.register_forward_pre_hook(enter(name))))
            stack.enter_context(_removing(module.register_forward_hook(leave(name))))
        stack.enter_context(_Logits(found, path))
        yield found


def first_float(result: object) -> Tensor | None:
    """The first floating-point tensor with more than one entry, else the first of all."""
    leaves = tensor_leaves(result)
    floats = [leaf for leaf in leaves if leaf.is_floating_point()]
    return next((leaf for leaf in floats if leaf.numel() > 1), floats[0] if floats else None)


@contextlib.contextmanager
def _removing(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


class _Logits(TorchFunctionMode):
    """Sees softmaxes and fused attention."""

    def __init__(self, found: dict[str, Tensor], path: list[str]) -> None:
        super().__init__()
        self._found, self._path = found, path

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("softmax", "_softmax") and args and isinstance(args[0], Tensor):
            self._note(args[0])
        elif name == "scaled_dot_product_attention" and len(args) >= 2:
            query, key = args[0], args[1]
            scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
            groups = query.shape[-3] // key.shape[-3] if query.dim() > 3 and key.shape[-3] != query.shape[-3] else 1
            key = key.repeat_interleave(groups, -3) if groups > 1 else key
            self._note(query @ key.transpose(-2, -1) * scale)
        return func(*args, **kwargs)

    def _note(self, logits: Tensor) -> None:
        if not logits.is_floating_point() or not logits.numel():
            return
        values = logits.detach().clone()
        seen = values.isfinite() & (values > torch.finfo(values.dtype).min / 2)  # what a mask hides is no logit
        place = f"{self._path[-1]} {LOGITS}" if self._path and self._path[-1] else LOGITS
        self._found.setdefault(place, torch.where(seen, values, 0.0))
