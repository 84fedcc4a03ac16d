"""sensitivity: how much the output moves for a unit move at a matrix's result, by Modula's rules (2405.14813; p = 1).

S(output) = 1, and S(u) is the sum over uses u -> v of the local gain times S(v). A local gain that Modula doesn't give
(a product of two activations) makes everything before it unknown, which is None and never a silent 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from normc.facts import Facts, Log, analysis
from normc.ops.call import shape_of
from normc.ops.value import Value
from normc.passes.bind import Binding
from normc.passes.flow import Flow
from normc.passes.layout import MATRIX, Layouts
from normc.passes.mass import Masses
from normc.trace.graph import ModelGraph, op_name

# Largest slope of each activation: supremum of |f'|.
SHARP = {"relu": 1.0, "gelu": 1.1289, "silu": 1.09984, "tanh": 1.0, "sigmoid": 0.25, "abs": 1.0, "softplus": 1.0,
         "elu": 1.0, "mish": 1.0885, "hardswish": 1.5, "neg": 1.0, "leaky_relu": 1.0, "log_softmax": 1.0}  # fmt: skip
_ONE = {
    "_softmax", "_to_copy", "_unsafe_view", "adaptive_avg_pool2d", "add", "alias", "avg_pool2d", "batch_norm", "cat",
    "chunk", "clone", "constant_pad_nd", "contiguous", "cumsum", "detach", "dropout", "expand", "flatten", "getitem",
    "group_norm", "index", "layer_norm", "masked_fill", "max_pool2d", "mean", "movedim", "native_dropout", "pad",
    "permute", "repeat", "reshape", "rms_norm", "select", "slice", "softmax", "split", "split_with_sizes", "squeeze",
    "stack", "sub", "t", "to", "transpose", "unbind", "unflatten", "unsqueeze", "view", "where",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """By parameter; None where an op on the way to the output has no rule."""

    of: Mapping[str, float | None]


@analysis("sensitivity")
def sensitivity(model: ModelGraph, facts: Facts, log: Log) -> Sensitivities:
    """One reverse walk; a matrix's own sensitivity is that of its result."""
    binding, flow = facts[Binding], facts[Flow]
    products = {c.node for found in binding.contacts.values() for c in found if c.kind in MATRIX}
    gain: dict[fx.Node, float | None] = {}
    for node in reversed(list(model.graph.nodes)):
        if node.op == "output":
            gain[node] = 1.0
        else:
            gain[node] = _sum(node, gain, binding, products, flow)
    found: dict[str, float | None] = {}
    for name in facts[Masses].of:
        principal = facts[Layouts].of[name].principal
        found[name] = gain[principal.node] if principal is not None else None
    return Sensitivities(found)


def _sum(
    node: fx.Node, gain: Mapping[fx.Node, float | None], binding: Binding, products: set[fx.Node], flow: Flow
) -> float | None:
    total = 0.0
    for user in node.users:
        after = gain[user]
        if after == 0.0 or (user.op != "output" and user not in flow.returned):
            continue
        local = 1.0 if user.op == "output" else _local(node, user, binding, products)
        if local is None or after is None:
            return None
        total += local * after
    return total


def _local(node: fx.Node, user: fx.Node, binding: Binding, products: set[fx.Node]) -> float | None:
    short = op_name(user).rsplit(".", 1)[-1].rstrip("_")
    if user in products or short in _ONE:
        return 1.0
    if short in SHARP:
        return SHARP[short]
    if short == "scaled_dot_product_attention":
        return _attention(node, user)
    if short in ("mul", "div"):
        return _multiple(node, user, short, binding)
    return None


def _attention(node: fx.Node, user: fx.Node) -> float:
    """The value path averages; the query and key paths gain scale * d_head (1 for the 1/d of Modula)."""
    if node is user.args[2]:
        return 1.0
    width = shape_of(node)[-1]
    scale = user.kwargs.get("scale")
    return float(scale) * width if isinstance(scale, (int, float)) else float(width**0.5)


def _multiple(node: fx.Node, user: fx.Node, short: str, binding: Binding) -> float | None:
    """A number multiplies the gain; a gain vector counts 1; two activations have no rule."""
    for other in user.args[:2]:
        if isinstance(other, (int, float)):
            return abs(float(other)) if short == "mul" else 1.0 / abs(float(other)) if other else None
        if isinstance(other, fx.Node) and other is not node:
            value = binding.values.get(other)
            concrete = other.meta.get("concrete")
            if concrete is not None and concrete.numel() == 1:
                number = abs(float(concrete))
                return number if short == "mul" else 1.0 / number if number else None
            return 1.0 if isinstance(value, Value) and value.kind != "data" else None
    return None
