"""What a weight is multiplied by, before it meets an activation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from normc.model.gains.local import constant, number
from normc.model.ops.value import Value
from normc.nodes import op_name


def weight_factor(contact: fx.Node, parameter: str, values: Mapping[fx.Node, object]) -> float:
    """The product of the numbers that scale a parameter on its way to `contact`; 1 where it goes through other ops."""
    waiting: list[tuple[fx.Node, float]] = [(node, 1.0) for node in contact.all_input_nodes]
    seen = set(contact.all_input_nodes)
    while waiting:
        node, factor = waiting.pop()
        if node.meta.get("param") == parameter:
            return factor
        if not is_weight(values.get(node)):
            continue
        scaled = factor * _scale(node)
        for source in node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                waiting.append((source, scaled))
    return 1.0


def uses_of(weight: fx.Node, values: Mapping[fx.Node, object]) -> list[fx.Node]:
    """The nodes that a weight goes into, through what is a weight still, and that are none themselves."""
    waiting, seen = [weight], {weight}
    found: list[fx.Node] = []
    while waiting:
        for user in waiting.pop().users:
            if user in seen or user.op == "output":
                continue
            seen.add(user)
            (waiting if is_weight(values.get(user)) else found).append(user)
    return found


def multiple_of(looked_up: fx.Node) -> float:
    """The number that every use of looked-up rows multiplies them by first (sqrt(d)); 1 without one."""
    found = {_scale(user) for user in looked_up.users if op_name(user).rstrip("_") in ("aten.mul", "aten.div")}
    return found.pop() if len(found) == 1 and len(looked_up.users) == 1 else 1.0


def is_weight(value: object) -> bool:
    """Whether a node's value is a weight's."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return isinstance(first, Value) and first.kind == "weight"


def _scale(node: fx.Node) -> float:
    name = op_name(node).rstrip("_")
    if name not in ("aten.mul", "aten.div") or len(node.args) != 2:
        return 1.0
    numbers = [_number(argument) for argument in node.args]
    if name == "aten.div":
        return 1 / numbers[1] if numbers[1] else 1.0
    return next((found for found in numbers if found is not None), 1.0)


def _number(argument: object) -> float | None:
    size = number(argument) if isinstance(argument, (int, float)) else None
    if isinstance(argument, fx.Node) and "param" not in argument.meta:
        size = constant(argument)
    return size.rms if size is not None and size.deviation == 0 else None
