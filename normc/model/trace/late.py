"""Values that are computed when they are asked for: of tensors that depend on no weight and are too large to be kept.

A mask of every pair of places is large, and whether any place is masked is one question about it. The graph says how it
was made, so its ops run on real tensors once something asks. No value is kept that a later write could change.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from normc.model.trace.effects import after_write
from normc.model.trace.shadow import KERNEL_ERRORS, UNFILLED, Known
from normc.model.trace.stand_ins import Twins
from normc.model.trace.values import map_leaves, tensors_in

_LARGEST = 64_000_000  # elements of all that one answer is computed from


class Late:
    """Real values of the nodes of a growing graph."""

    def __init__(self, graph: fx.Graph, twins: Twins) -> None:
        self._graph, self._twins = graph, twins
        self._last: fx.Node | None = None
        self._free: set[fx.Node] = set()  # nodes that neither weights nor anything made up go into

    def value(self, node: fx.Node) -> Known | None:
        """What `node` holds, not to be written to; None if that isn't known, or much has to be computed for it."""
        return self._computed(node, set()) if self._is_free(node) else None

    def counted(self, node: fx.Node) -> int | None:
        """The integer in `node` if all integers that weights computed are ones: each row is hit once. None if that
        says nothing.
        """
        ones: set[fx.Node] = set()
        waiting, seen = [node], {node}
        while waiting:
            at = waiting.pop()
            if self._is_free(at):
                continue
            if not _counts(at):
                return None
            sources = [source for source in at.all_input_nodes if not self._is_free(source)]
            if sources and all(_counts(source) for source in sources):
                fresh = [source for source in sources if source not in seen]
                seen.update(fresh)
                waiting += fresh
            else:
                ones.add(at)
        known = self._computed(node, ones)
        with _disable_current_modes():
            return int(known.value) if known is not None and known.value.numel() == 1 else None

    def _is_free(self, node: fx.Node) -> bool:
        if node.op == "placeholder":
            return self._real(node) is not None
        at = next(iter(self._graph.nodes), None) if self._last is None else self._last.next
        while at is not None and at.op != "root":
            if at.op == "call_function" and _repeats(at) and all(map(self._was_free, at.all_input_nodes)):
                self._free.add(at)
            self._last, at = at, at.next
        return node in self._free

    def _was_free(self, node: fx.Node) -> bool:
        return self._real(node) is not None if node.op == "placeholder" else node in self._free

    def _real(self, node: fx.Node) -> Tensor | None:
        """What a buffer or an input holds; None for a parameter, and for what has no data."""
        real = self._twins.original(node.meta["val"])
        usable = "param" not in node.meta and not isinstance(real, FakeTensor) and real.device.type != "meta"
        return real if usable and real.layout is torch.strided else None

    def _computed(self, node: fx.Node, ones: set[fx.Node]) -> Known | None:
        needed, waiting = {node}, [node]
        while waiting:
            at = waiting.pop()
            fresh = [source for source in at.all_input_nodes if source not in needed] if at not in ones else []
            needed.update(fresh)
            waiting += fresh
        if sum(tensor.numel() for at in needed for tensor in tensors_in(at.meta["val"])) > _LARGEST:
            return None
        values: dict[fx.Node, Any] = {}
        with _disable_current_modes(), torch.no_grad():
            try:
                for at in sorted(needed):  # in the graph's order: ops that write find what they write to
                    values[at] = _ones(at) if at in ones else self._run(at, values)
            except KERNEL_ERRORS:
                return None
        return Known(values[node], not ones and not any(_name(at) in UNFILLED for at in needed))

    def _run(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.op == "placeholder":
            real = self._real(node)
            assert real is not None
            return real.detach().to("cpu", copy=True)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        assert callable(node.target)
        out = node.target(*map_leaves(args, _on_cpu), **map_leaves(kwargs, _on_cpu))
        return out.zero_() if _name(node) in UNFILLED else out


def _repeats(node: fx.Node) -> bool:
    """Whether the node's op gives the same on the same operands, and nothing of it was made up."""
    if "guessed" in node.meta:
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in node.target.tags
    return node.target in (operator.getitem, after_write)


def _ones(node: fx.Node) -> Tensor:
    return torch.ones(tuple(node.meta["val"].shape), dtype=node.meta["val"].dtype)


def _counts(node: fx.Node) -> bool:
    """Whether the node holds integers."""
    val = node.meta["val"]
    whole = isinstance(val, Tensor) and not (val.dtype.is_floating_point or val.dtype.is_complex)
    return whole and val.dtype != torch.bool


def _name(node: fx.Node) -> str:
    return node.target.overloadpacket.__name__ if isinstance(node.target, torch._ops.OpOverload) else ""


def _on_cpu(leaf: Any) -> Any:
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf
