"""Whether a value is on its way into the weight's place of a layer: what is multiplied into it then makes a weight."""

from __future__ import annotations

from torch import fx

from normc.ops.call import rule_for
from normc.trace.graph import op_name

# Where a weight may stand, by the op's name: the place of the argument.
_SLOTS = {"linear": 1, "deform_conv2d": 1, **{f"conv{'_transpose' * t}{n}d": 1 for n in (1, 2, 3) for t in (0, 1)}}
_ENDS = ("contraction", "convolution", "attention", "recurrent", "normalisation", "lookup", "joining")
# Numbers that a weight is divided by: they are made by products of vectors.
_SUMS = ("mv", "dot", "vdot")


def slot_of(node: fx.Node) -> fx.Node | None:
    """What stands in the weight's place of a linear layer or convolution; None of any other op."""
    place = _SLOTS.get(op_name(node).rsplit(".", 1)[-1].rstrip("_"))
    filled = node.args[place] if place is not None and len(node.args) > place else None
    return filled if isinstance(filled, fx.Node) else None


def fills_slot(node: fx.Node, most: int = 64) -> bool:
    """Whether `node`, through views, arithmetic and sums alone, becomes the weight of a linear layer or convolution."""
    waiting, seen = [node], {node}
    while waiting and len(seen) < most:
        at = waiting.pop(0)
        for user in at.users:
            name = op_name(user).rsplit(".", 1)[-1].rstrip("_")
            place = _SLOTS.get(name)
            if place is not None and len(user.args) > place and user.args[place] is at and user.args[0] is not at:
                return True
            if user not in seen and place is None and _passes(user, name):
                seen.add(user)
                waiting.append(user)
    return False


def _passes(node: fx.Node, name: str) -> bool:
    if node.op != "call_function":
        return False
    rule = rule_for(node)
    return name in _SUMS or (rule is not None and rule.__module__.rsplit(".", 1)[-1] not in _ENDS)
