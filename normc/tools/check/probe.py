"""Gains as they are: from a change at a node to the output, RMS to RMS, on average (one backward) and at worst.

A change of RMS 1 at u, its entries independent, changes the output y by sqrt(|J|_F^2 / numel(y)) in RMS; and for w with
independent entries of variance 1, E |J^T w|^2 = |J|_F^2: one backward pass of <w, y> measures every node at once. At
worst the change is s_max(J) sqrt(numel(u) / numel(y)), found by power iteration on J^T J. Of several outputs, the
squares of the changes' RMS add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from normc.tools.check.subject import Subject, Weights

ITERATIONS = 15
_STARTS = 2


@dataclass(frozen=True, slots=True)
class Probed:
    """Average gain to the output from each node, and the RMS of its value; a node that leads nowhere has gain 0."""

    gain: Mapping[fx.Node, float]
    rms: Mapping[fx.Node, float]


def averages(subject: Subject, weights: Weights, probes: int = 4, seed: int = 0) -> Probed:
    """All nodes behind a parameter, by `probes` backward passes of one forward."""
    generator = torch.Generator().manual_seed(seed)
    sizes: dict[fx.Node, float] = {}
    squares: dict[fx.Node, float] = {}

    def watch(node: fx.Node, value: Tensor) -> Tensor:
        sizes[node] = float(value.detach().double().square().mean().sqrt()) if value.numel() else 0.0
        if value.requires_grad:
            squares[node] = 0.0
            value.register_hook(lambda grad: add(node, grad))
        return value

    def add(node: fx.Node, grad: Tensor) -> None:
        squares[node] += float(grad.detach().double().square().sum()) / probes

    leaves = {name: _leaf(tensor) for name, tensor in weights.of.items()}
    with torch.enable_grad():
        outputs = [out for out in subject.run(Weights(leaves, weights.factors), watch) if out.requires_grad]
        for probe in range(probes if outputs else 0):
            noise = [_noise(out, generator) for out in outputs]
            torch.autograd.backward(outputs, noise, retain_graph=probe + 1 < probes)
    return Probed({node: square**0.5 for node, square in squares.items()}, sizes)


def _leaf(tensor: Tensor) -> Tensor:
    leaf = tensor.detach().clone()
    return leaf.requires_grad_() if leaf.is_floating_point() else leaf


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian, divided by the root of the number of entries."""
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64) / max(like.numel(), 1) ** 0.5
    found: Tensor = noise.to(like)
    return found


def sharpest(
    subject: Subject, weights: Weights, nodes: Iterable[fx.Node], iterations: int = ITERATIONS, seed: int = 0
) -> dict[fx.Node, float | None]:
    """The largest gain from each node, from below: v <- normalise(J^T J v). None where an op has no forward derivative.

    Attention runs in its plain form, since the fused CPU kernel has no forward derivative.
    """
    return {node: _sharp(subject, weights, node, iterations, seed) for node in nodes}


def _sharp(subject: Subject, weights: Weights, node: fx.Node, iterations: int, seed: int) -> float | None:
    like = node.meta["val"]
    size = tuple(like.shape)
    start = torch.randn(
        (_STARTS, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(next(iter(weights.of.values())).device, like.dtype)  # fmt: skip

    def outputs(change: Tensor) -> list[Tensor]:
        """Scaled so that the length of what comes out is the RMS."""
        found = subject.run(weights, lambda at, value: value + change if at is node else value)
        return [out / max(out.numel(), 1) ** 0.5 for out in found]

    with sdpa_kernel(SDPBackend.MATH):
        for together in (True, False):
            try:
                return _iterated(outputs, start, iterations, together)
            except (RuntimeError, NotImplementedError):
                continue
    return None


def _iterated(outputs: Callable[[Tensor], list[Tensor]], start: Tensor, iterations: int, together: bool) -> float:
    """The best of several starts, run side by side by vmap, or the first alone."""
    zero = torch.zeros_like(start[0])
    back: Callable[[list[Tensor]], tuple[Tensor]] = torch.func.vjp(outputs, zero)[1]

    def step(v: Tensor) -> tuple[Tensor, Tensor]:
        forward = torch.func.jvp(outputs, (zero,), (v,))[1]
        square = torch.stack([part.square().sum() for part in forward]).sum()
        (again,) = back(forward)
        return again, square

    v = start if together else start[:1]
    best = torch.zeros(len(v))
    for _ in range(iterations):
        v = v / v.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *[1] * (v.dim() - 1))
        if together:
            v, squares = torch.func.vmap(step, randomness="same")(v)
        else:
            again, square = step(v[0])
            v, squares = again[None], square[None]
        best = squares.detach().sqrt()
    return float(best.max()) * math.sqrt(zero.numel())
