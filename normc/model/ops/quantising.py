"""Fake quantisation: entries rounded to steps, whose size may be learned, and passed on as they are by the gradient."""

from __future__ import annotations

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.elementwise import combined
from normc.model.ops.value import Dim, Value, dim_size, unknown


@rule(
    "aten.fake_quantize_per_tensor_affine", "aten.fake_quantize_per_tensor_affine_cachemask",
    "aten.fake_quantize_per_channel_affine", "aten.fake_quantize_per_channel_affine_cachemask",
    "aten._fake_quantize_learnable_per_tensor_affine", "aten._fake_quantize_learnable_per_channel_affine",
    "aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams", "aten.fused_moving_avg_obs_fake_quant",
    "aten._fused_moving_avg_obs_fq_helper",
)  # fmt: skip
def fake_quantize(call: Call) -> Result:
    """The first operand; a learned step or zero point scales it, along `axis` if there are several."""
    nodes, values = call.operands[:1], [call.value(call.first())]
    axis = call["axis"] if isinstance(call["axis"], int) else -1
    for node in call.operands[1:]:
        value = call.value(node)
        if value.kind == "weight" and node.meta.get("grad", True) and not value.parameters <= values[0].parameters:
            nodes.append(node)
            values.append(_along(value, axis, len(call.shape)))
    found = combined(call.named("aten.mul"), nodes, values, call.shape)
    return [found, *(unknown("constant", shape) for shape in call.shapes[1:])] if len(call.shapes) > 1 else found


def _along(step: Value, axis: int, rank: int) -> Value:
    """Steps as they lie over the entries."""
    if axis < 0 or len(step.dims) != 1 or dim_size(step.dims[0]) == 1:
        return step
    dims: list[Dim] = [()] * rank
    dims[axis] = step.dims[0]
    return step.with_dims(dims)
