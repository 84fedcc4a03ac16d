"""Ops that make a tensor from shapes or from another tensor's shape: no entry comes from an operand."""

from __future__ import annotations

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.value import unknown


@rule(
    "aten.zeros_like", "aten.ones_like", "aten.empty_like", "aten.full_like", "aten.rand_like", "aten.randn_like",
    "aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.new_empty", "aten.arange", "aten.zeros", "aten.ones",
    "aten.full", "aten.empty", "aten.eye", "aten.linspace", "aten.scalar_tensor", "aten.randn", "aten.rand",
    "aten.randint", "aten.randperm", "aten.tril_indices", "aten.triu_indices", "aten.new_empty_strided",
    "aten.empty_strided", "aten.tensor", "aten._shape_as_tensor", "aten.randint_like", "aten.normal", "aten.one_hot",
)  # fmt: skip
def create(call: Call) -> Result:
    kind = "data" if call.name == "aten.one_hot" and call.value(call.first()).kind == "data" else "constant"
    results = [unknown(kind, shape) for shape in call.shapes]  # type: ignore[arg-type]  # literals above
    return results if len(results) > 1 else results[0]
