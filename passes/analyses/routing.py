"""Whether a product's results choose where others go: a router's do.

Its largest entries are picked, and the places of those say which activations or matrices meet which. Places that are
only compared with labels, returned, or looked up in a table of tokens route nothing, nor do the picked values alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import fx

from normc.model.ops.value import Value, dim_size
from normc.model.trace.graph import shape_of
from normc.nodes import op_name

Values = Mapping[fx.Node, Value | Sequence[Value]]

_CHOICES = {"topk", "sort", "argmax", "argsort", "max", "kthvalue"}
_SHAPING = {
    "softmax", "_softmax", "log_softmax", "sigmoid", "exp", "log", "tanh", "add", "mul", "div", "sub", "neg", "view",
    "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "t", "clone", "to", "_to_copy",
    "float", "detach", "masked_fill", "slice", "select", "where",
}  # fmt: skip
_COMPARISONS = {"ge", "gt", "le", "lt", "eq"}
_READS = {"index", "_unsafe_index", "index_select", "gather", "take_along_dim", "embedding", "embedding_bag",
          "_embedding_bag", "masked_select", "take"}  # fmt: skip
_WRITES = {"scatter", "scatter_add", "scatter_reduce", "index_add", "index_put", "_unsafe_index_put", "index_copy",
           "grouped_mm", "_grouped_mm"}  # fmt: skip
_MASKS = {"mul", "where", "masked_fill", "masked_scatter"}
_PRODUCTS = {"matmul", "mm", "bmm", "einsum", "linear", "baddbmm", "addmm", "mv"}
_MOST_SCORES, _MOST_CHOSEN = 48, 256


def routes(node: fx.Node, values: Values) -> bool:
    """Whether places that the largest of `node`'s results are at decide where other activations go."""
    scores = {node: None}
    waiting, choices = [node], list[fx.Node]()
    while waiting and len(scores) < _MOST_SCORES:
        for user in waiting.pop(0).users:
            if _short(user) in _CHOICES:
                choices.append(user)
            elif _short(user) in _SHAPING and user not in scores:
                scores[user] = None
                waiting.append(user)
    return bool(choices) and _Choice(scores, values).moves_others(choices)


class _Choice:
    """What is made of scores and of the places of the largest of them."""

    def __init__(self, scores: Mapping[fx.Node, None], values: Values) -> None:
        self._values = values
        self._own: dict[fx.Node, bool] = dict.fromkeys(scores, True)

    def moves_others(self, choices: Sequence[fx.Node]) -> bool:
        """Whether something that was chosen picks, masks or mixes anything but the scores."""
        chosen = dict.fromkeys(place for choice in choices for place in self._places(choice))
        waiting = list(chosen)
        while waiting and len(chosen) < _MOST_CHOSEN:
            for user in waiting.pop(0).users:
                operands = [source for source in user.all_input_nodes if source not in chosen]
                others = [source for source in operands if not self._is_own(source)]
                if self._decides(user, others, chosen):
                    return True
                if user not in chosen and self._goes_on(user, others, chosen):
                    chosen[user] = None
                    waiting.append(user)
        return False

    def _places(self, choice: fx.Node) -> list[fx.Node]:
        """Where the largest are; or, told by the least of them, which of the scores are larger."""
        if _short(choice) in ("argmax", "argsort"):
            return [choice]
        found = []
        for item in choice.users:
            if _short(item) == "getitem" and item.args[1] == 1:
                found.append(item)
            elif _short(item) == "getitem":
                found += self._thresholds(item)
        return found

    def _thresholds(self, largest: fx.Node, most: int = 8) -> list[fx.Node]:
        """Comparisons of the scores with some of their largest values."""
        found, waiting = [], [largest]
        while waiting and (most := most - 1):
            for user in waiting.pop(0).users:
                if _short(user) in _COMPARISONS and all(map(self._is_own, user.all_input_nodes)):
                    found.append(user)
                elif _short(user) in ("select", "slice", "unsqueeze", "amin", "expand", "view"):
                    waiting.append(user)
        return found

    def _is_own(self, node: fx.Node) -> bool:
        """Whether an activation is made of the scores alone."""
        if node not in self._own:
            self._own[node] = False  # a loop can't be, but deep graphs can: what is not known yet is another one
            sources = [source for source in node.all_input_nodes if self._is_activation(source)]
            self._own[node] = bool(sources) and _short(node) not in _PRODUCTS and all(map(self._is_own, sources))
        return self._own[node]

    def _decides(self, user: fx.Node, others: Sequence[fx.Node], chosen: Mapping[fx.Node, None]) -> bool:
        """Whether an op moves or mixes other activations, or a stack of matrices, by what was chosen."""
        name = _short(user)
        if name in _READS | _WRITES:
            moved = any(self._is_activation(other) or self._is_stack(other) for other in others)
            return moved and user.args[0] not in chosen
        if name in _MASKS:  # one entry of the mask for many of the activation: entry by entry it is but a function
            mask = max((math.prod(shape_of(source)) for source in user.all_input_nodes if source in chosen), default=0)
            size = math.prod(shape_of(user))
            expanded = any(_short(source) == "expand" for source in user.all_input_nodes if source in chosen)
            return (mask < size or expanded) and any(map(self._is_activation, others))
        return name in _PRODUCTS and any(self._is_activation(other) or self._is_stack(other) for other in others)

    def _goes_on(self, user: fx.Node, others: Sequence[fx.Node], chosen: Mapping[fx.Node, None]) -> bool:
        """Whether a result still says what was chosen: scores alone have come to it, and it is no list of them."""
        if user.op != "call_function" or "loss" in _short(user):
            return False
        if any(self._is_activation(other) or self._kind(other) == "weight" for other in others):
            return False
        return _short(user) not in _READS or not _is_float(user) or user.args[0] in chosen

    def _kind(self, node: fx.Node) -> str:
        value = self._values.get(node)
        value = value if isinstance(value, Value) or not value else value[0]
        return value.kind if value is not None and isinstance(value, Value) else "constant"

    def _is_activation(self, node: fx.Node) -> bool:
        return self._kind(node) == "data" and _is_float(node)

    def _is_stack(self, node: fx.Node) -> bool:
        """Whether a weight holds more than the rows of one table."""
        value = self._values.get(node)
        if not isinstance(value, Value) or value.kind != "weight":
            return False
        return sum(dim_size(dim) > 1 for dim in value.dims) > 2


def _is_float(node: fx.Node) -> bool:
    val = node.meta.get("val")
    val = val[0] if isinstance(val, (tuple, list)) and val else val
    return isinstance(val, torch.Tensor) and val.dtype.is_floating_point


def _short(node: fx.Node) -> str:
    return op_name(node).rsplit(".", 1)[-1].rstrip("_")
