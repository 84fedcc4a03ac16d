"""Weights at the budget: each one as large as the nominal gains take it to be (THEORY A'3).

Matrices are random and semi-orthogonal, block by block; looked-up rows and tokens have RMS 1, both together with the
numbers that multiply them; gains have RMS 1; biases are nothing. What is none of these, and what wasn't inferred, stays
as it was. A matrix that maps to fewer entries can be one of two sizes: such that it keeps the RMS of random input
(which is what an average gain of 1 means), or such that its RMS to RMS norm is 1, and it keeps that of the inputs which
suit it (`inside` its norm's ball).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from normc.model.gains.weights import is_weight, multiple_of, weight_factor
from normc.nodes import op_name
from normc.passes.analyses.bind import Binding
from normc.plans.row import Row
from normc.recipe.stages.view import fold_of
from normc.tools.check.subject import Subject, Weights

_TABLES = ("embedding", "position", "token")
_MATRICES = ("input", "hidden", "output", "router", "depthwise")


def at_budget(subject: Subject, seed: int = 0, inside: bool = False) -> Weights:
    """One draw of such weights; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    factors: dict[fx.Node, float] = {}
    for row in subject.plan.rows:
        now = subject.initial.of[row.name]
        value = _drawn(row, now, generator, inside, _offset(subject, row.name)) / _multiple(subject, row)
        found[row.name] = value.to(now)
        size = float(value.square().mean().sqrt())
        lookups = [c.node for c in subject.facts[Binding].contacts[row.name] if c.kind == "lookup"]
        # A table that is a matrix too can't have the right size for both: its rows are scaled where they are read.
        read = size if row.role in _MATRICES and size else 1.0
        factors |= {node: 1 / (read * multiple_of(node)) for node in lookups if read * multiple_of(node) != 1.0}
    return Weights(found, factors)


def _multiple(subject: Subject, row: Row) -> float:
    """What a table or matrix is multiplied by on its way to where it is used: it is the multiple that has norm 1."""
    if row.role not in (*_TABLES, *_MATRICES):
        return 1.0
    binding = subject.facts[Binding]
    found = {weight_factor(c.node, row.name, binding.values) for c in binding.contacts[row.name]}
    return found.pop() or 1.0 if len(found) == 1 else 1.0


def _offset(subject: Subject, name: str) -> bool:
    """Whether a number is added to a parameter before it meets an activation: a gain stored as 1 + w."""
    values = subject.facts[Binding].values
    waiting, seen = [subject.graph.nodes[name]], {subject.graph.nodes[name]}
    while waiting:
        for user in waiting.pop().users:
            if user in seen or not is_weight(values.get(user)):
                continue
            seen.add(user)
            waiting.append(user)
            if op_name(user).rstrip("_") == "aten.add" and any(isinstance(a, (int, float)) and a for a in user.args):
                return True
    return False


def _drawn(row: Row, now: Tensor, generator: torch.Generator, inside: bool, offset: bool) -> Tensor:
    old = now.detach().to("cpu", torch.float64)
    if row.fallback is not None or row.rule == "none" or not old.numel():
        return old
    if row.role in _TABLES:
        noise = torch.randn(old.shape, generator=generator, dtype=torch.float64)
        axes = row.out_axes or tuple(range(old.dim()))
        return noise / noise.square().mean(axes, keepdim=True).sqrt().clamp_min(1e-12)
    if (row.role in _MATRICES and row.in_axes and row.out_axes) or row.role == "depthwise":
        return _matrix(row, old, generator, inside)
    if row.role == "gain":
        size = float(old.square().mean().sqrt())
        return old / size if size else torch.zeros_like(old) if offset else torch.ones_like(old)
    return torch.zeros_like(old) if row.role == "bias" else old


def _matrix(row: Row, like: Tensor, generator: torch.Generator, inside: bool) -> Tensor:
    found = torch.zeros_like(like)
    if not row.blocks:
        return _kept(row, tuple(like.shape), generator, inside)
    for block in row.blocks:
        index = torch.cat([torch.arange(start, stop) for start, stop in block.spans])
        shape = tuple(len(index) if axis == block.axis else size for axis, size in enumerate(like.shape))
        found.index_copy_(block.axis, index, _kept(row, shape, generator, inside))
    return found


def _kept(row: Row, shape: tuple[int, ...], generator: torch.Generator, inside: bool) -> Tensor:
    """Of `shape`, with the axes of `row`: semi-orthogonal matrices times sqrt(out / in), at least 1 if not `inside`."""
    fold = fold_of(row, shape)
    count, out, into = fold.shape
    noise = torch.randn((count, max(out, into), min(out, into)), generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(noise).Q
    matrices: Tensor = (q if out >= into else q.mT) * max(0.0 if inside else 1.0, (out / into) ** 0.5)
    sizes = [fold.sizes[axis] for axis in fold.order]
    back = [fold.order.index(axis) for axis in range(len(sizes))]
    found: Tensor = matrices.reshape(sizes).permute(back).reshape(shape)
    return found
