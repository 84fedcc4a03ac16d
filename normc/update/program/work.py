"""The work of a chain that needs whole tensors, in whole numbers: the same on every machine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from normc.update.ops.matrices import polar
from normc.update.program.program import Chain

SEGMENTS = 2  # of the Gram form: it is restarted once
_PRODUCTS = {
    torch.ops.aten.mm.default: 0, torch.ops.aten.bmm.default: 0, torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
}  # fmt: skip
_DECOMPOSES = ("_linalg_eigh", "_linalg_svd", "linalg_qr", "linalg_cholesky_ex", "linalg_inv_ex", "_linalg_solve_ex")
_DECOMPOSING = 10  # operations of a decomposition for each of n^2 m
# What an entry of a whole tensor costs besides products, in operations: it is moved some four times in float32, and a
# GPU does about 200 operations in the time that it moves a byte.
ENTRY = 3200


def newton_schulz(n: int, m: int, steps: int, segments: int = SEGMENTS) -> int:
    """Operations (a multiply-add is two) of quintic Newton-Schulz in the Gram form, of one matrix of sides n <= m.

    n^3 (3 k (a - 1) + 4 T) for a = m / n, k segments and T steps: symmetric products are computed by halves.
    """
    return 3 * min(segments, steps) * n * n * (m - n) + 4 * steps * n**3


def flops(chain: Chain) -> int:
    """Operations of a chain's products and decompositions, whose graph's values are annotated: of a step that does all
    that some do once in many.
    """
    return sum(_flops(node) for node in chain.graph.nodes if node.op == "call_function")


def cost(chain: Chain) -> int:
    """What the whole part of a chain takes, in operations; a whole number, so that all machines choose the same owners.

    Products count as they run: Newton-Schulz of each block in the Gram form, with the steps of the row's polynomial.
    """
    return flops(chain) + ENTRY * chain.row.numel


def _flops(node: fx.Node) -> int:
    if node.target is polar:
        number, *sides = node.all_input_nodes[0].meta["val"].shape
        polynomials: Any = node.kwargs["polynomials"]
        return int(number) * newton_schulz(min(sides), max(sides), len(polynomials))
    value = node.meta["val"]
    found = next((each for each in tree_leaves(value) if isinstance(each, FakeTensor)), None)
    if found is None:
        return 0
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda given: given.meta["val"])
    assert callable(node.target)
    counted = _Counted()
    with found.fake_mode, counted:
        node.target(*args, **kwargs)
    return counted.flops


class _Counted(TorchDispatchMode):
    """Adds up what runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            first, second = args[_PRODUCTS[func] : _PRODUCTS[func] + 2]
            self.flops += 2 * first.numel() * second.shape[-1]
        elif func.__name__.split(".")[0] in _DECOMPOSES and isinstance(args[0], Tensor):
            *batch, rows, columns = args[0].shape
            self.flops += _DECOMPOSING * math.prod(batch) * min(rows, columns) ** 2 * max(rows, columns)
        return result
