"""Which nodes a gradient of the outputs reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import fx

from normc.nodes import op_name

NO_GRADIENT = frozenset({"aten.detach", "aten.argmax", "aten.argmin", "aten.argsort", "aten.zeros_like",
                         "aten.ones_like", "aten.empty_like", "aten.full_like", "aten.rand_like", "aten.randn_like",
                         "aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.new_empty", "aten.bernoulli",
                         "aten.one_hot"})  # fmt: skip


def inputs_of(node: fx.Node) -> Iterable[fx.Node]:
    """The nodes that `node` is computed from."""
    return node.all_input_nodes


def graded(output: fx.Node) -> frozenset[fx.Node]:
    """Every node that the gradient of some floating-point output reaches. Kept: a graph doesn't change once traced."""
    of, found = output.meta.get("graded", (None, frozenset()))
    if of is not output:  # a copy of the graph has its nodes' meta
        found = graded_through(output, inputs_of)
        output.meta["graded"] = output, found
    return frozenset(found)


def graded_through(output: fx.Node, before: Callable[[fx.Node], Iterable[fx.Node]]) -> frozenset[fx.Node]:
    """The same, where `before` says to which nodes a gradient goes on from one."""
    seen: set[fx.Node] = set()
    waiting = [node for node in output.all_input_nodes if differentiable(node)]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "call_function" and not ends_gradient(node):
            waiting += [source for source in before(node) if source not in seen and differentiable(source)]
    return frozenset(seen)


def differentiable(node: fx.Node) -> bool:
    """Whether autograd may give the node's value a gradient: it was watching, and the value is no integer."""
    if node.op == "call_function" and not node.meta.get("grad", True):
        return False
    val = node.meta.get("val")
    items = val if isinstance(val, (tuple, list)) else (val,)
    return any(isinstance(v, torch.Tensor) and (v.dtype.is_floating_point or v.dtype.is_complex) for v in items)


def in_backward(node: fx.Node) -> bool:
    """Whether autograd ran the op, within a forward that differentiates."""
    return "backward" in node.meta


def ends_gradient(node: fx.Node) -> bool:
    """Whether no gradient comes back through the op. Results that autograd saves are detached only while they wait, and
    what a custom function detaches has the gradient that its backward gives it.
    """
    name = op_name(node)
    if name == "aten.detach" and "function" in node.meta:
        return False
    if name == "aten.detach":
        saved = bool(node.users) and all(in_backward(user) and op_name(user) == name for user in node.users)
        return not (saved or in_backward(node))
    return name in NO_GRADIENT


def needs_gradient(node: fx.Node) -> bool:
    """Whether autograd would record a gradient for the node: something that requires one goes into it."""
    waiting, seen = [node], {node}
    while waiting:
        at = waiting.pop()
        if at.op == "placeholder":
            if isinstance(val := at.meta["val"], torch.Tensor) and _requires_grad(val):
                return True
        elif differentiable(at) and not ends_gradient(at):
            fresh = [source for source in at.all_input_nodes if source not in seen]
            seen.update(fresh)
            waiting += fresh
    return False


def _requires_grad(tensor: torch.Tensor) -> bool:
    """What torch itself keeps, whatever else is answered in its place."""
    return bool(torch._C.TensorBase.requires_grad.__get__(tensor))  # type: ignore[attr-defined]  # a descriptor
