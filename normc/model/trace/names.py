"""The model under its wrappers, and names for the tensors that its forward is called with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils import _pytree as pytree

from normc.model.trace.foreign import ask, signature_of


def unwrapped(model: nn.Module) -> nn.Module:
    """The module whose forward is the model's own: inside torch.compile and data-parallel wrappers."""
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            inner: object = model.module
        elif "torch._dynamo.eval_frame" in sys.modules:
            inner = ask(model, "_orig_mod")
        else:
            return model
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def call_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Every tensor of a call with a path: `input_ids`, `batch.0`, `args.1` where the signature has no name for it."""
    signature = signature_of(unwrapped(model).forward)
    positional = [
        parameter.name
        for parameter in (signature.parameters.values() if signature is not None else ())
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    named = [(positional[at] if at < len(positional) else f"args.{at}", value) for at, value in enumerate(args)]
    found: list[tuple[str, Tensor]] = []
    for name, value in [*named, *kwargs.items()]:
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, Tensor):
                found.append((".".join([name, *(_step(key) for key in path)]), leaf))
    return found


def _step(key: Any) -> str:
    for attribute in ("idx", "key", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
