"""Whether an operand chooses: ones and noughts that pick entries (hard), or shares that mix them (soft)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, fx

from normc.model.ops.call import Call
from normc.nodes import op_name

Choice = Literal["", "hard", "soft"]

_SHARES = frozenset({"softmax", "_softmax", "_safe_softmax", "sigmoid", "hardsigmoid"})
_KEEPING = frozenset({
    "to", "_to_copy", "type_as", "float", "clone", "contiguous", "detach", "alias", "dropout", "native_dropout",
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "t",
    "mT", "expand", "slice", "select", "split", "chunk", "unbind", "getitem", "topk", "gather", "div", "true_divide",
    "masked_fill", "nan_to_num", "movedim", "after_write", "cat", "stack", "mean",
})  # fmt: skip
# Of these every part has to choose: a difference of one-hot and soft shares, a choice times its gate.
_COMBINING = frozenset({"mul", "add", "sub", "where", "cat", "stack"})
_WRITING = frozenset({"scatter", "index_put", "scatter_add"})


Fixed = Callable[[fx.Node], bool]


def chooses(call: Call, operand: object) -> Choice:
    """How an operand of a call chooses; "" if it is any other activation."""
    return choice(operand, lambda node: call.value(node).kind == "constant") if isinstance(operand, fx.Node) else ""


def choice(node: fx.Node, fixed: Fixed, most: int = 48) -> Choice:
    """How `node` chooses, told from the ops that made it; "" if it is any other activation.

    `fixed` says whether a node depends on neither parameters nor inputs: the entries of others are no evidence.
    """
    waiting, seen = [node], {node}
    found: set[Choice] = set()
    while waiting:
        at = waiting.pop()
        kind, sources = _step(at, fixed)
        if kind is None or len(seen) > most:
            return ""
        found |= {kind} if kind else set()
        waiting += [source for source in sources if source not in seen]
        seen.update(sources)
    return "hard" if "hard" in found else "soft" if found else ""


def _step(node: fx.Node, fixed: Fixed) -> tuple[Choice | None, list[fx.Node]]:
    """The kind of choice that an op makes, and where else to look; None for an op that makes none."""
    name = op_name(node).rsplit(".", 1)[-1].rstrip("_")
    if fixed(node):
        return ("hard" if _is_one_hot(node) else None), []
    if name in _SHARES:
        return "soft", []
    if name == "one_hot" or (name == "eq" and any(_counts(source) for source in node.all_input_nodes if fixed(source))):
        return "hard", []
    if name in ("index", "embedding", "index_select") and fixed(table := node.all_input_nodes[0]):
        return ("hard" if _is_one_hot(table) else None), []
    if name in _WRITING:
        return _written(node)
    if name in _COMBINING:
        return "", [source for source in node.all_input_nodes if not _is_bound(source)] or [node.all_input_nodes[0]]
    return ("", node.all_input_nodes[:1]) if name in _KEEPING and node.all_input_nodes else (None, [])


def _written(node: fx.Node) -> tuple[Choice | None, list[fx.Node]]:
    """Ones written into noughts, or the shares that a router gave to its largest."""
    base = node.args[0]
    source = node.args[3] if len(node.args) > 3 else node.args[2] if len(node.args) > 2 else None
    if not isinstance(base, fx.Node) or not _is_nought(base):
        return None, []
    if isinstance(source, fx.Node) and not _is_number(source):
        return "", [source]
    return "hard", []


def _is_one_hot(node: fx.Node) -> bool:
    """Whether a constant holds ones and noughts, at most one 1 in a row, and isn't one number a row."""
    concrete = node.meta.get("concrete")
    if not isinstance(concrete, Tensor) or concrete.dim() < 2 or concrete.shape[-1] < 2:
        return False
    return bool(((concrete == 0) | (concrete == 1)).all()) and bool((concrete.sum(-1) == 1).all())


def permutes(node: object) -> bool:
    """Whether a constant matrix but changes the order of what it is multiplied with."""
    if not isinstance(node, fx.Node) or not _is_one_hot(node):
        return False
    concrete: Tensor = node.meta["concrete"]
    return concrete.dim() == 2 and concrete.shape[0] == concrete.shape[1] and bool((concrete.sum(0) == 1).all())


def _counts(node: fx.Node) -> bool:
    """Whether a constant holds 0, 1, 2, ..."""
    concrete = node.meta.get("concrete")
    if not isinstance(concrete, Tensor) or concrete.numel() < 2:
        return False
    flat = concrete.reshape(-1)
    return bool((flat == torch.arange(len(flat), dtype=flat.dtype)).all())


def _is_nought(node: fx.Node) -> bool:
    while op_name(node) in ("aten.detach", "aten.to", "aten._to_copy", "aten.alias"):
        node = node.all_input_nodes[0]
    return op_name(node).rsplit(".", 1)[-1] in ("zeros", "zeros_like", "new_zeros", "full", "full_like")


def _is_number(node: fx.Node) -> bool:
    val = node.meta.get("val")
    return isinstance(val, Tensor) and val.numel() == 1 and "concrete" in node.meta


def _is_bound(node: fx.Node) -> bool:
    """Whether a part of a sum or product is a mask, or one number."""
    val = node.meta.get("val")
    return isinstance(val, Tensor) and (val.dtype == torch.bool or val.numel() == 1)
