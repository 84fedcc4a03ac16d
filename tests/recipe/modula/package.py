"""What the paper's package itself says of its networks: every atom's share of a step, read off its recursion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def leaves(module: Any) -> Iterator[Any]:
    """Its atoms, in the order of their weights."""
    if not module.children:
        if module.length:
            yield module
        return
    for child in module.children:
        yield from leaves(child)


def share_again(module: Any) -> float:
    """Set the masses of composed modules to the sums of their parts', after an atom's was changed."""
    if module.children:
        module.mass = sum(share_again(child) for child in module.children)
    return float(module.mass)


def targets(module: Any, eta: float = 1.0) -> list[float]:
    """The norm that `normalize` would give every atom's update."""
    found: list[float] = []
    for leaf in leaves(module):
        leaf.normalize = lambda w, target_norm: found.append(float(target_norm))
    # The recursion slices its list of weights by the number of atoms, and looks at nothing else of it.
    from modula.vector import Vector

    module.normalize(Vector([torch.zeros(1) for _ in range(module.length)]), target_norm=eta)
    for leaf in leaves(module):
        del leaf.normalize
    return found


def factor(leaf: Any) -> float:
    """What the package multiplies a weight by in front of its input."""
    return float(leaf.scale)
