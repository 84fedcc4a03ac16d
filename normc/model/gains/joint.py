"""Gains through a stretch of the graph that was drawn together: random changes of its end, brought back by each op's
own derivative at what was drawn. Where a large slope meets a small one (exp and the division by its sum), the product
of their averages would say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor, fx

from normc.model.gains.sample import Samples, run

PROBES = 4
Changes = tuple[Tensor, ...]


class Joint:
    """What comes back to the nodes of a stretch, `PROBES` times; kept by node as the walk goes from end to start."""

    def __init__(self, samples: Samples, members: Set[fx.Node]) -> None:
        self._samples, self._members = samples, members
        self._back: dict[fx.Node, dict[fx.Node, Changes]] = {}
        self._generator = torch.Generator().manual_seed(0)

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._members

    def reach(self, node: fx.Node, user: fx.Node) -> Changes | None:
        """What a use brings back to `node`; None if the user isn't in the stretch, or its op has no derivative."""
        return self._back.get(user, {}).get(node)

    def through(self, node: fx.Node, reached: list[Changes], others: float) -> float:
        """The gain of a member that these uses reach, and all others together by `others`; its op takes it on."""
        value = self._samples.of(node)
        if not isinstance(value, Tensor):
            return math.inf
        changes = []
        for probe in range(PROBES):
            noise = torch.randn(value.shape, generator=self._generator, dtype=torch.float64).to(value.dtype)
            total = noise * (others / max(value.numel(), 1) ** 0.5)
            changes.append(sum((part[probe] for part in reached), total))
        try:
            self._back[node] = self._derived(node, changes)
        except (RuntimeError, NotImplementedError, LookupError):
            self._back[node] = {}
        return length(tuple(changes))

    def _derived(self, node: fx.Node, changes: list[Tensor]) -> dict[fx.Node, Changes]:
        operands: dict[fx.Node, Any] = {source: self._samples.of(source) for source in node.all_input_nodes}
        leaves = {
            source: value.detach().clone().requires_grad_()
            for source, value in operands.items()
            if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
        }
        with torch.enable_grad():
            out = run(node, {**operands, **leaves})
        if not isinstance(out, Tensor) or not out.requires_grad:
            return {}
        found: dict[fx.Node, list[Tensor]] = {source: [] for source in leaves}
        for change in changes:
            grads = torch.autograd.grad(out, list(leaves.values()), change, retain_graph=True, allow_unused=True)
            for source, grad in zip(leaves, grads, strict=True):
                found[source].append(torch.zeros_like(leaves[source]) if grad is None else grad.nan_to_num(0, 0, 0))
        return {source: tuple(grads) for source, grads in found.items()}


def length(changes: Changes) -> float:
    """Root mean square of their 2-norms."""
    return math.sqrt(sum(float(change.abs().square().sum()) for change in changes) / len(changes))


def together(parts: list[Changes]) -> Changes:
    """Sums of what several uses bring back."""
    return tuple(sum(rest, first) for first, *rest in zip(*parts, strict=True))


def stretch(samples: Samples | None, tried: Mapping[fx.Node, Any]) -> Joint | None:
    """The stretches behind the ops that were tried out on operands drawn together; None without any."""
    members = samples.stretch(tried) if samples is not None else frozenset()
    return Joint(samples, members) if samples is not None and members else None
