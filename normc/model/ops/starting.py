"""The first step of a loop, whose state is a constant still: what multiplies it there is no weight that is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from normc.model.ops.call import MATRIX, Contact
from normc.model.ops.value import Value
from normc.nodes import op_name

_MADE = {"zeros", "ones", "full"} | {f"{name}_like" for name in ("zeros", "ones", "full")}
_MADE |= {f"new_{name}" for name in ("zeros", "ones", "full")}
Values = Mapping[fx.Node, Value | Sequence[Value]]


def without_starts(contacts: Sequence[Contact], values: Values) -> list[Contact]:
    """The contacts; of a gain of a recurrent state not those where the state is zeros or ones yet."""
    entrywise = [contact for contact in contacts if contact.kind == "gain"]
    gains = {c.parameter for c in entrywise if not _scales_a_start(c, values)}
    return [c for c in contacts if c.kind in MATRIX or c.parameter not in gains or not _scales_a_start(c, values)]


def _scales_a_start(contact: Contact, values: Values, most: int = 16) -> bool:
    """Whether the parameter has multiplied one number everywhere on its way to a contact."""
    waiting, seen = [contact.node], {contact.node}
    while waiting and len(seen) < most:
        for source in waiting.pop().all_input_nodes:
            value = values.get(source)
            if source in seen or not isinstance(value, Value) or value.kind != "weight":
                continue
            if contact.parameter in value.parameters and source.op == "call_function":
                if op_name(source).rstrip("_") == "aten.mul" and any(map(_is_start, source.all_input_nodes)):
                    return True
                seen.add(source)
                waiting.append(source)
    return False


def _is_start(node: fx.Node) -> bool:
    """Whether a tensor is one number everywhere, as it was made or behind ops on nothing but such tensors."""
    val, concrete = node.meta.get("val"), node.meta.get("concrete")
    if isinstance(val, torch.Tensor) and val.numel() < 2:
        return False
    if isinstance(concrete, torch.Tensor):
        return bool((concrete == concrete.reshape(-1)[0]).all())
    if op_name(node).rsplit(".", 1)[-1] in _MADE:
        return True
    sources = node.all_input_nodes
    return node.op == "call_function" and bool(sources) and all(map(_is_start, sources))
