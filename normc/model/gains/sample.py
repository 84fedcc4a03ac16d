"""Entries drawn for a stretch of the graph at once: where results depend on how operands belong together (a sum of
decays whose differences are all negative, a maximum that is subtracted), moments alone mislead.

Weights' products, inputs and norms start anew, as Gaussians of the sizes tracked; every op behind them is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from normc.model.gains.local import UNIT, At, Size, floats
from normc.model.ops.value import Value
from normc.model.trace.effects import after_write
from normc.nodes import op_name

LARGEST = 4_000_000
_KEPT = 40_000_000
_DROPOUTS = ("aten.dropout", "aten.feature_dropout", "aten.native_dropout")
_FAILS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, AssertionError, OverflowError)


class Samples:
    """One draw of the values of nodes, made when asked for.

    `fresh` says where a draw starts anew; `weight` gives the size of a parameter's entries (0: they are nothing yet).
    `factor` multiplies what is drawn.
    """

    def __init__(
        self,
        values: Mapping[fx.Node, Any],
        sizes: Mapping[fx.Node, Size | None],
        fresh: Callable[[fx.Node], bool],
        weight: Callable[[fx.Node], Size],
        factor: float = 1.0,
    ) -> None:
        self._values, self._sizes, self._fresh, self._weight = values, sizes, fresh, weight
        self._factor = factor
        self._drawn: dict[fx.Node, Any] = {}
        self._entries = 0
        self._generator = torch.Generator().manual_seed(0)

    def shrunk(self, factor: float) -> Samples:
        """Another draw, all of whose beginnings are so much smaller; what is known stays as it is."""
        return Samples(self._values, self._sizes, self._fresh, self._weight, factor)

    def of(self, node: fx.Node) -> Any:
        """A node's value: a float64 tensor, or what the op gives. LookupError if it can't be had."""
        waiting = [node]
        while waiting:
            at = waiting[-1]
            sources = [] if self._starts(at) else [s for s in at.all_input_nodes if s not in self._drawn]
            if at in self._drawn or not sources:
                waiting.pop()
                if at not in self._drawn:
                    self._keep(at, self._made(at))
                continue
            if entries_of(at) > LARGEST or at.target is after_write:
                raise LookupError(f"{at.name} is too large to try out, or written to in part")
            waiting += sources
        return self._drawn[node]

    def stretch(self, ends: Iterable[fx.Node]) -> frozenset[fx.Node]:
        """The float tensors that are run on the way to `ends`, and these."""
        waiting, seen = list(ends), set(ends)
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source not in seen and not self._starts(source) and self._kind(source) == "data":
                    seen.add(source)
                    waiting.append(source)
        return frozenset(node for node in seen if isinstance(node.meta.get("val"), Tensor) and floats(node))

    def forget(self) -> None:
        """Drop what was drawn, if it has become much."""
        if self._entries > _KEPT:
            self._drawn.clear()
            self._entries = 0

    def _keep(self, node: fx.Node, value: Any) -> None:
        self._drawn[node] = value
        self._entries += entries_of(node)

    def _starts(self, node: fx.Node) -> bool:
        return (
            _known(node)
            or node.op != "call_function"
            or (self._kind(node) == "data" and floats(node) and self._fresh(node))
        )

    def _kind(self, node: fx.Node) -> str:
        value = self._values.get(node)
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        return first.kind if isinstance(first, Value) else "constant"

    def _made(self, node: fx.Node) -> Any:
        concrete, like = node.meta.get("concrete"), node.meta.get("val")
        if isinstance(concrete, Tensor) and _known(node):
            return concrete.double() if concrete.dtype.is_floating_point else concrete
        if not self._starts(node):
            return run(node, self._drawn)
        if not isinstance(like, Tensor) or not floats(node) or entries_of(node) > LARGEST:
            raise LookupError(f"{node.name} isn't known")
        size = self._sizes.get(node, UNIT)
        if "param" in node.meta:
            size = self._weight(node)
        if size is None or not math.isfinite(size.rms):
            raise LookupError(f"the size of {node.name} isn't known")
        drawn = torch.randn(
            tuple(like.shape), generator=self._generator,
            dtype=torch.complex128 if like.dtype.is_complex else torch.float64,
        )  # fmt: skip
        return self._factor * (drawn * size.deviation + size.mean)


def _known(node: fx.Node) -> bool:
    """Whether a value is there to be used: a constant, or an index that is fed in. Activations fed in have size 1."""
    return isinstance(node.meta.get("concrete"), Tensor) and not ("input" in node.meta and floats(node))


def entries_of(node: fx.Node) -> int:
    """How many entries a node's tensors have."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else (value,)
    return sum(math.prod(item.shape) for item in values if isinstance(item, Tensor))


def run(node: fx.Node, feeds: Mapping[fx.Node, Any]) -> Any:
    """What the op makes of these operands, in float64; the same in every call, where it draws; dropout as in eval mode.

    LookupError if it can't be run so. Nothing else's random numbers change.
    """

    def fed(operand: fx.Node) -> Any:
        value = feeds[operand]
        return value.clone() if isinstance(value, Tensor) else value

    args = fx.node.map_arg(node.args, fed)
    if op_name(node) in _DROPOUTS:
        args = (*args[:2], False)
    kwargs: Any = {k: _wide(v) for k, v in fx.node.map_arg(node.kwargs, fed).items()}
    assert callable(node.target)
    try:
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(0)
            return node.target(*(_wide(a) for a in args), **kwargs)
    except _FAILS as problem:
        raise LookupError(f"{node.name} can't be tried out: {type(problem).__name__}") from None


def _wide(argument: Any) -> Any:
    """Casts to other precisions are casts to float64 here."""
    narrow = isinstance(argument, torch.dtype) and argument.is_floating_point
    return torch.float64 if narrow else argument


def operand_of(at: At, node: fx.Node) -> Tensor:
    """A draw of an operand of that call. LookupError if it can't be had, or is no tensor."""
    if at.samples is None:
        raise LookupError(at.name)
    found = at.samples.of(node)
    first = found[0] if isinstance(found, (tuple, list)) else found
    if not isinstance(first, Tensor):
        raise LookupError(at.name)
    return first
