"""Layer, RMS, batch, group and instance norm, kept whole by the tracer: a gain and a bias over the feature axis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx

from normc.model.ops.call import Call, ContactKind, Result, rule
from normc.model.ops.overlay import overlaid
from normc.model.ops.partners import partners_of
from normc.model.ops.value import Dim, Made, Value, as_feature, fresh_dim
from normc.plans.row import AxisUse

_PLACES = {
    "aten.layer_norm": ("weight", "bias"),
    "aten.native_layer_norm": ("weight", "bias"),
    "aten.rms_norm": ("weight",),
    "aten._fused_rms_norm": ("weight",),
}
_OVER_CHANNELS = ("weight", "bias")


@rule(*_PLACES)
def over_last(call: Call) -> Result:
    return _normalise(call, _PLACES[call.name], channel=None)


@rule(
    "aten.batch_norm", "aten.native_batch_norm", "aten._native_batch_norm_legit", "aten.cudnn_batch_norm",
    "aten.group_norm", "aten._native_batch_norm_legit_no_training", "aten._native_batch_norm_legit_functional",
    "aten.native_group_norm", "aten.instance_norm", "aten._batch_norm_impl_index", "aten._batch_norm_with_update",
)  # fmt: skip
def over_channels(call: Call) -> Result:
    return _normalise(call, _OVER_CHANNELS, channel=1)


def _normalise(call: Call, names: tuple[str, ...], channel: int | None) -> Result:
    node = call["input"]
    value = call.value(node)
    made: tuple[Made, ...] = ()
    if value.kind == "weight":
        weight = _normalised_weight(call, value, names, channel)
        if channel is not None:
            return [weight] if len(call.shapes) > 1 else weight
        value, made = call.data(node, 0), call.stack(weight, "built")
    for name in names:
        meet_affine(call, call[name], "gain" if name == "weight" else "shift", node, channel)
    feature = len(value.dims) - 1 if channel is None else min(channel, len(value.dims) - 1)
    dims: list[Dim] = [as_feature(dim) if i == feature else dim for i, dim in enumerate(value.dims)]
    result = replace(value.with_dims(dims), made=made)
    if len(call.shapes) == 1:
        return result
    return [
        result,
        *(Value(result.kind, tuple(fresh_dim(n) for n in s), touched=result.touched) for s in call.shapes[1:]),
    ]


def _normalised_weight(call: Call, value: Value, names: tuple[str, ...], channel: int | None) -> Value:
    """Weight standardisation: a weight normalised over itself keeps its axes; a gain lies over its channels."""
    value = value.through(call.name)
    affine = [call.value(call[name]) for name in names]
    for weight in (weight for weight in affine if weight.kind == "weight"):
        first = len(value.dims) - len(weight.dims) if channel is None else channel
        over = dict(enumerate(weight.dims, first))
        dims = [overlaid([d, over[i]], n) if i in over else d
                for i, (d, n) in enumerate(zip(value.dims, value.shape, strict=True))]  # fmt: skip
        value = replace(value, dims=tuple(dims), parameters=value.parameters | weight.parameters,
                        via=tuple(dict.fromkeys((*value.via, *weight.via))))  # fmt: skip
    return value


def meet_affine(call: Call, weight: Any, kind: ContactKind, node: fx.Node, channel: int | None) -> None:
    """A gain or bias operand of a normalisation: all its axes are fan-out, over the channels or the last dimensions."""
    value, data = call.value(weight), call.value(node)
    if weight is None or value.kind != "weight":
        return
    uses: list[AxisUse] = ["out"] * len(value.dims)
    spots = range(len(data.dims) - len(value.dims), len(data.dims)) if channel is None else [channel]
    fits = data.kind == "data" and tuple(data.shape[spot] for spot in spots) == value.shape
    call.meet(value, uses, kind, node, partners=partners_of(value, data, spots) if fits else ())


@rule("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(call: Call) -> Result:
    """g * v / ||v||: v keeps its axes; g is a gain on the axis that it does not sum over."""
    direction, size = call.node.args[:2]
    v, g = call.value(direction), call.value(size)
    if g.kind == "weight":
        call.meet(g, ["out" if n > 1 else "none" for n in g.shape], "gain", direction)
    result = v.through("weight_norm")
    return [result, g] if len(call.shapes) > 1 else result
