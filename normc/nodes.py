"""What a node of a torch.fx graph is called: of a model's graph and of an update's."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import fx


def op_name(node: fx.Node) -> str:
    """The op's name without its overload: `aten.addmm`, `operator.getitem`; a placeholder's own name otherwise."""
    return node.name if node.op != "call_function" else _target_name(node.target)


@lru_cache(maxsize=4096)
def _target_name(target: object) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target.overloadpacket.__name__}"
    module = getattr(target, "__module__", "") or ""
    return f"{module.rsplit('.', 1)[-1].lstrip('_')}.{getattr(target, '__name__', str(target))}"
