"""Attention kept whole by the tracer: query, key and value end here; a learned mask is a position table."""

from __future__ import annotations

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.kept import over, still
from normc.model.ops.meeting import meet_elementwise
from normc.model.ops.value import Value, as_feature, dim_size, fresh_dim


@rule(
    "aten.scaled_dot_product_attention", "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_flash_attention", "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_attention_math", "aten._scaled_dot_product_cudnn_attention",
)  # fmt: skip
def scaled_dot_product_attention(call: Call) -> Result:
    query, key, value = call.node.args[:3]
    for operand, summed in ((query, -1), (key, -1), (value, -2)):
        call.separate(operand, range(len(call.value(operand).dims) - 2), (summed,))
    q, _, v = call.data(query, 0), call.data(key, 1), call.data(value, 2)
    mask = call["attn_mask"] if "attn_mask" in call.arguments else call["attn_bias"]
    if mask is not None and call.value(mask).kind == "weight":
        heads = tuple(
            as_feature(d) if i == len(q.dims) - 3 else fresh_dim(n)
            for i, (d, n) in enumerate(zip(q.dims, call.shape, strict=True))
        )
        scores = Value("data", (*heads[:-1], fresh_dim(2)), touched=True)
        meet_elementwise(
            call.named("aten.add"),
            call.value(mask),
            _fits(scores, call.value(mask)),
            call.node,
            call.value(mask).shape,
        )
    elif mask is not None:
        call.consume(mask, 3)
    (v,) = still([call.value(value)], [v], [(-2,)])
    grouped = [(*dim, *fresh_dim(size // max(1, dim_size(dim)))) if dim else dim  # of heads that queries share
               for dim, size in zip(v.dims[:-2], call.shape[:-2], strict=False)]  # fmt: skip
    lead = over(grouped, q.dims[:-2], call.shape[:-2])
    dims = (*lead, *q.dims[-2:-1], as_feature(v.dims[-1] if v.dims else ()))
    result = Value("data", dims, offsets=v.offsets, touched=q.touched or v.touched)
    result = (
        result
        if result.shape == call.shape
        else Value("data", tuple(fresh_dim(n) for n in call.shape), touched=result.touched)
    )
    return (
        [result, *(Value("data", tuple(fresh_dim(n) for n in s)) for s in call.shapes[1:])]
        if len(call.shapes) > 1
        else result
    )


def _fits(scores: Value, mask: Value) -> Value:
    """The scores seen in the mask's rank: heads stay the feature axis."""
    rank = len(mask.dims)
    dims = scores.dims[-rank:] if rank <= len(scores.dims) else scores.dims
    return scores.with_dims(dims)
