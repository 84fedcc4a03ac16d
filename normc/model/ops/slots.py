"""Where a weight stands in a layer."""

from __future__ import annotations

from torch import fx

from normc.nodes import op_name

# Where a weight may stand, by the op's name: the place of the argument.
_SLOTS = {"linear": 1, "deform_conv2d": 1, **{f"conv{'_transpose' * t}{n}d": 1 for n in (1, 2, 3) for t in (0, 1)}}


def slot_of(node: fx.Node) -> fx.Node | None:
    """What stands in the weight's place of a linear layer or convolution; None of any other op."""
    place = _SLOTS.get(op_name(node).rsplit(".", 1)[-1].rstrip("_"))
    filled = node.args[place] if place is not None and len(node.args) > place else None
    return filled if isinstance(filled, fx.Node) else None
