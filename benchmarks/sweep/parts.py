"""What a module's class, attributes and names promise of a parameter's blocks: how many, and how large."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from normc.plans.row import Row

Sizes = tuple[int, ...]


class Promise(NamedTuple):
    """The sizes of the blocks in the order of their first entries (any of `sizes` will do), and what promises it."""

    why: str
    sizes: tuple[Sizes, ...]


_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3}
_FUSED = r"qkv|qkv_proj|query_key_value|Wqkv|in_proj_qkv|c_attn|to_qkv"
_HALVES = r"gate_up_proj|gate_up|up_gate_proj|kv|kv_proj|to_kv|key_value"


def promised(module: nn.Module, name: str, full: str, row: Row, parents: Mapping[str, nn.Module]) -> Promise | None:
    """What is known of the blocks of `module`'s parameter `name`; None if nothing is. () stands for no blocks."""
    if (gates := _gates(module, name)) is not None:
        return gates
    if isinstance(module, nn.MultiheadAttention) and name in ("in_proj_weight", "in_proj_bias"):
        return Promise("MultiheadAttention: q, k, v", (_equal(row.shape[0], 3),))
    if name not in ("weight", "bias"):
        return None
    if (groups := getattr(module, "groups", 1)) > 1 and isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        whole = groups == row.shape[0] and (name == "bias" or row.shape[1] == 1)
        return None if whole or name == "bias" else Promise("groups", (_equal(row.shape[0], groups),))
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) or type(module).__name__ == "Conv1D":
        return _fused(module, name, full, row, parents)
    return None


def _gates(module: nn.Module, name: str) -> Promise | None:
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or not re.match(r"(weight|bias)_[ih]h", name):
        return None
    count = _GATES.get(getattr(module, "mode", type(module).__name__), 1)
    return Promise(f"{type(module).__name__}: a gate each", (_equal(count * module.hidden_size, count),))


def _equal(total: int, parts: int) -> Sizes:
    return (total // parts,) * parts if parts > 1 else ()


def _fused(module: nn.Module, name: str, full: str, row: Row, parents: Mapping[str, nn.Module]) -> Promise | None:
    """The parts of a layer that its name says is several at once."""
    path = full.split(".")
    own = path[-2] if len(path) > 1 else ""
    turned = type(module).__name__ == "Conv1D"  # transformers' own: its weight is [in, out]
    outputs = row.shape[1] if turned and name == "weight" else row.shape[0]
    inputs = getattr(module, "in_features", getattr(module, "in_channels", row.shape[0]))
    parent = parents.get(".".join(path[:-2]))
    if re.fullmatch(_FUSED, own):
        if (grouped := _heads(parent, outputs)) is not None:
            return Promise(f"{own} of grouped heads", (grouped,))
        sizes = tuple(_equal(outputs, parts) for parts in (3, 2) if outputs % parts == 0)
        sizes = sizes if outputs == 2 * inputs else sizes[:1] if outputs % 3 == 0 else ()
        return Promise(own, sizes) if sizes else None
    if re.fullmatch(_HALVES, own) and outputs % 2 == 0:
        return Promise(own, (_equal(outputs, 2),))
    if own == "in_proj" and (state := _state_space(parent, outputs)) is not None:
        return Promise("in_proj of a state space", state)
    return None


def _heads(parent: nn.Module | None, outputs: int) -> Sizes | None:
    """q, k and v of fewer key heads than query heads; None if the parent doesn't say so."""
    heads = _number(parent, "num_heads", "num_attention_heads", "n_head", "heads")
    kv = _number(parent, "num_kv_heads", "num_key_value_heads", "n_head_kv", "kv_heads")
    if not heads or not kv or kv == heads or outputs % (heads + 2 * kv):
        return None
    width = outputs // (heads + 2 * kv)
    return (heads * width, kv * width, kv * width)


def _state_space(parent: nn.Module | None, outputs: int) -> tuple[Sizes, ...] | None:
    """Mamba: the input and its gate. Mamba-2: gate, input, B, C, and a step a head."""
    inner = _number(parent, "intermediate_size", "d_inner")
    if not inner:
        return None
    if outputs == 2 * inner:
        return ((inner, inner),)
    groups, state = _number(parent, "n_groups", "ngroups"), _number(parent, "ssm_state_size", "d_state")
    heads = _number(parent, "num_heads", "nheads")
    if groups and state and heads and outputs == 2 * inner + 2 * groups * state + heads:
        return ((inner, inner, groups * state, groups * state, heads),)
    return None


def _number(parent: nn.Module | None, *names: str) -> int | None:
    for holder in (parent, getattr(parent, "config", None)):
        for name in names:
            if isinstance(found := getattr(holder, name, None), int):
                return found
    return None


def found(row: Row) -> Sizes:
    """The sizes of a row's blocks in the order of their first entries."""
    return tuple(block.size for block in sorted(row.blocks, key=lambda block: block.spans[0]))
