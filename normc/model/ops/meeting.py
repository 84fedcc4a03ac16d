"""A weight meets an activation entry by entry: along features it is a gain or a shift, along places a position."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from normc.model.ops.call import Call, ContactKind
from normc.model.ops.partners import partners_of
from normc.model.ops.places import next_features, picked_alike
from normc.model.ops.value import Value, dim_size, is_feature, is_source
from normc.plans.row import AxisUse

PRODUCTS = {"mul", "div", "true_divide", "multiply", "divide", "prelu", "_prelu_kernel", "pow", "floor_divide"}
LOSSES = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
DIFFERENCES = {"sub", "rsub", "subtract"} | LOSSES
SUMS = {"add"} | DIFFERENCES
# max(x, w) is w + relu(x - w): a shift.
_BOUNDS = {"maximum", "minimum", "fmax", "fmin"}


def short(call: Call) -> str:
    """`mul` for aten.mul and aten.mul_."""
    return call.name.rsplit(".", 1)[-1].rstrip("_")


def meet_elementwise(
    call: Call, weight: Value, data: Value, node: fx.Node, shape: tuple[int, ...], outer: frozenset[int] = frozenset()
) -> None:
    """A weight meets an activation entry by entry: its axes along features are fan-out, along places an index.

    So are those fan-out along which the activation is repeated (`outer`): they are new features, no places.
    """
    if short(call) in DIFFERENCES and any(factor.picked == "block" for dim in weight.dims for factor in dim):
        call.read(weight, node)  # compared with what they were chosen for: a codebook
        return
    lead = len(shape) - len(weight.dims)
    features = _features(call, data, outer)
    kind = _kind(call, weight)
    along = [spot for spot, dim in enumerate(weight.dims, lead) if dim_size(dim) > 1]
    grown = outer if kind != "gain" or features.isdisjoint(along) else frozenset()
    uses: list[AxisUse] = [
        "none" if spot not in along else "out" if spot in features | grown else "index"
        for spot in range(lead, len(shape))
    ]
    partners = partners_of(weight, data, range(lead, len(shape)))
    last = dim_size(data.dims[-1]) if data.dims else 1
    runs = any(factor.runs for dim in weight.dims for factor in dim) or bool(weight.spread)
    alike = not runs and (not weight.dims or last > 1)
    if any(is_feature(dim) for dim in data.dims):  # what a constant index has picked there are features, no places
        weight = weight.with_dims(
            tuple(replace(factor, picked="") for factor in dim) if spot in features else dim
            for spot, dim in enumerate(weight.dims, lead)
        )
    places = not weight.dims or _picks_places(call, weight, node)
    call.meet(
        weight, uses, kind, node,
        partners=partners, alike=alike, outer=not grown.isdisjoint(along), places=places,
    )  # fmt: skip


def _features(call: Call, data: Value, outer: frozenset[int]) -> set[int]:
    """The dimensions of features. Where none is known yet: those that the next product contracts, else the last."""
    rank = len(data.dims)
    known = {i for i, dim in enumerate(data.dims) if is_feature(dim)}
    if known or not rank:
        return known
    return (next_features(call) if len(call.shape) == rank else set()) - outer or {rank - 1}


def _picks_places(call: Call, weight: Value, node: fx.Node) -> bool:
    """Whether a number that picked one entry of a weight counts the places of the activation that it meets."""
    along = {run.axis for dim in weight.dims for factor in dim for run in factor.runs}
    left = {axis: where for axis, where in weight.offsets.items() if axis not in along and not is_source(axis)}
    return bool(left) and picked_alike(call, node, left)


def _kind(call: Call, weight: Value) -> ContactKind:
    name = short(call)
    if name in ("addcmul", "addcdiv") and weight is call.value(call.first()):
        return "shift"
    if name in PRODUCTS or name in ("addcmul", "lerp", "addcdiv"):
        return "gain"
    if name in SUMS or name in _BOUNDS:
        return "shift"
    if name in ("where", "masked_fill", "copy", "index_put"):
        return "join"
    return "unknown"
