"""Products that sum over an axis: with a weight of norm 1, and of two activations; attention; softmax."""

from __future__ import annotations

import math

from torch import fx

from normc.model.gains.local import At, Back, Local, Size, constant, floats, gain
from normc.model.trace.graph import shape_of
from normc.nodes import op_name


@gain(
    "aten.linear", "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.conv_transpose1d", "aten.conv_transpose2d",
    "aten.conv_transpose3d", "aten.convolution", "aten._convolution", "aten._grouped_mm", "aten.grouped_mm",
    "aten.bilinear",
)  # fmt: skip
def weighted(at: At) -> Local:
    """A weight on its norm's sphere keeps the RMS (THEORY A'3: the budget, not the weight's norm of today)."""
    operand, weight = at.node.args[:2]
    assert isinstance(operand, fx.Node)
    if at.kind(weight) == "data" and isinstance(weight, fx.Node):
        shape = shape_of(weight)
        kept = 1 if "transpose" in at.name else 0
        found = _of_two(at, operand, weight, math.prod(size for place, size in enumerate(shape) if place != kept))
        return found._replace(back=(*found.back, *_shifted(at)))
    if at.kind(operand) != "data":
        return Local(Size(at.rms(operand)), _shifted(at))
    if at.kind(weight) == "constant":
        return _by_constant(at, operand, weight)
    return Local(Size(at.size(operand).rms), (Back(operand, 1.0),))


def _shifted(at: At) -> tuple[Back, ...]:
    """A bias that the model computes."""
    bias = at.node.args[2] if len(at.node.args) > 2 else None
    return (Back(bias, 1.0),) if isinstance(bias, fx.Node) and at.kind(bias) == "data" else ()


@gain("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.inner")
def multiplied(at: At) -> Local:
    """With a weight as above; of two activations, k summed: sqrt(k) on average and k at worst."""
    first, second = at.node.args[:2]
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    return _product(at, first, second)


@gain("aten.addmm", "aten.baddbmm", "aten.addbmm", "aten.addmv")
def added(at: At) -> Local:
    """The same, with something added."""
    base, first, second = at.node.args[:3]
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    found = _product(at, first, second)
    if at.kind(base) == "data" and isinstance(base, fx.Node) and at.node.kwargs.get("beta", 1) != 0:
        return found._replace(back=(*found.back, Back(base, 1.0)))
    return found


def _product(at: At, first: fx.Node, second: fx.Node) -> Local:
    kinds = at.kind(first), at.kind(second)
    if kinds == ("data", "data"):
        return _of_two(at, first, second, shape_of(first)[-1])
    operand, other = (first, second) if kinds[0] == "data" else (second, first)
    if at.kind(other) == "constant":
        return _by_constant(at, operand, other)
    return Local(Size(at.size(operand).rms), (Back(operand, 1.0),))


def _of_two(at: At, first: fx.Node, second: fx.Node, summed: int) -> Local:
    """A product of two activations over `summed` entries; of probabilities and values, an average of the values."""
    a, b = at.any_size(first), at.any_size(second)
    if a.simplex or _is_probability(first):
        return Local(Size(b.rms, b.mean), (Back(first, b.rms, weak=True), Back(second, 1.0)))
    factor = float(summed) if at.model.nominal else math.sqrt(summed)
    return Local(Size(a.rms * b.rms * factor), (Back(first, b.rms * factor), Back(second, a.rms * factor)))


SOFTMAX = ("softmax", "_softmax", "_safe_softmax")
_KEEPING = frozenset({
    "_to_copy", "to", "dropout", "native_dropout", "view", "_unsafe_view", "reshape", "clone", "expand", "contiguous",
    "getitem", "nan_to_num", "transpose", "masked_fill",
})  # fmt: skip


def _is_probability(node: fx.Node, hops: int = 12) -> bool:
    """Whether a softmax made it, with nothing but casts, dropout and views since."""
    for _ in range(hops):
        name = op_name(node).rsplit(".", 1)[-1].rstrip("_")
        if name in SOFTMAX:
            return True
        if name not in _KEEPING:
            return False
        if not node.all_input_nodes:
            return False
        node = node.all_input_nodes[0]
    return False


def _by_constant(at: At, operand: fx.Node, other: object) -> Local:
    """By a fixed matrix: its average gain where its entries are known. LookupError where they aren't."""
    rms = constant(other) if isinstance(other, fx.Node) else None
    if rms is None:
        raise LookupError(at.name)
    factor = rms.rms * math.sqrt(shape_of(operand)[-1])
    return Local(Size(at.size(operand).rms * factor), (Back(operand, factor),))


@gain("aten.einsum")
def einsum(at: At) -> Local:
    """With a weight as a product; of two activations by the number of entries summed."""
    equation, operands = at.node.args[:2]
    assert isinstance(equation, str) and isinstance(operands, (list, tuple))
    data = [node for node in operands if isinstance(node, fx.Node) and at.kind(node) == "data"]
    if len(data) == 1:
        if len(operands) == 2 and not at.product:
            return _by_constant(at, data[0], next(node for node in operands if node is not data[0]))
        return Local(Size(at.size(data[0]).rms), (Back(data[0], 1.0),))
    if len(data) != 2 or "." in equation:
        raise LookupError(equation)
    terms, output = equation.replace(" ", "").split("->")
    sizes = {
        letter: size
        for term, node in zip(terms.split(","), operands, strict=True)
        if isinstance(node, fx.Node)
        for letter, size in zip(term, shape_of(node), strict=False)
    }
    return _of_two(at, data[0], data[1], math.prod(size for letter, size in sizes.items() if letter not in output))


@gain("aten.scaled_dot_product_attention", "aten._scaled_dot_product_flash_attention_for_cpu")
def attention(at: At) -> Local:
    """THEORY A4: with scale 1/d sensitivity 1; the query's and key's is scale * d * partner * value at worst."""
    query, key, value = at.node.args[:3]
    assert isinstance(query, fx.Node) and isinstance(key, fx.Node) and isinstance(value, fx.Node)
    width = shape_of(query)[-1]
    given = at.node.kwargs.get("scale")
    scale = float(given) if isinstance(given, (int, float)) else width**-0.5
    steer = scale * (width if at.model.nominal else math.sqrt(width))
    q, k, v = (at.rms(node) for node in (query, key, value))
    back = [Back(query, steer * k * v, weak=True), Back(key, steer * q * v, weak=True), Back(value, 1.0)]
    added = at.node.args[3] if len(at.node.args) > 3 else at.node.kwargs.get("attn_mask")
    if isinstance(added, fx.Node) and floats(added):
        back.append(Back(added, v, weak=True))
    return Local(Size(v), tuple(use for use in back if at.kind(use.operand) == "data"))


@gain("aten.softmax", "aten._softmax", "aten._safe_softmax")
def softmax(at: At) -> Local:
    """Gain 1 from the largest logit to the sum of the probabilities (THEORY A4)."""
    operand = at.data[0]
    size = shape_of(operand)[-1] or 1
    return Local(Size(1.0 if at.model.nominal else 1 / size, 1 / size, 1, True), (Back(operand, 1.0, weak=True),))


@gain("aten.log_softmax", "aten._log_softmax", "aten.nll_loss", "aten.nll_loss2d", "aten.cross_entropy_loss",
      "aten.nll_loss_nd", "aten.nll_loss_forward", "aten.mse_loss", "aten.l1_loss", "aten.smooth_l1_loss",
      "aten.binary_cross_entropy_with_logits", "aten.kl_div")  # fmt: skip
def loss(at: At) -> Local:
    """What a loss makes of the model's output counts as the output."""
    operand = at.data[0]
    return Local(Size(1.0), (Back(operand, 1.0),))


@gain("aten.glu")
def gated(at: At) -> Local:
    """a * sigmoid(b): both halves, by the average of the other (THEORY A3's table for the sigmoid)."""
    operand = at.data[0]
    size = at.size(operand)
    slope, gate = (0.25, 1.0) if at.model.nominal else (0.21175, 0.54164)
    return Local(Size(size.rms * gate), (Back(operand, math.hypot(gate, slope * size.rms)),))
