"""Sums, products and quotients of activations, weights and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, fx

from normc.model.gains.activations import pointwise, steady
from normc.model.gains.local import At, Back, Local, Size, TailsError, floats, gain, scaled, together
from normc.model.trace.effects import is_seen
from normc.model.trace.graph import shape_of
from normc.nodes import op_name

_CLOSE = 1e-2  # tables of half precision


@gain("aten.add", "aten.sub", "aten.rsub", "aten.__iadd__", "aten.subtract")
def summed(at: At) -> Local:
    """Each operand counts by its multiplier (`alpha`); a bias starts at nothing and adds no size."""
    alpha = at.node.kwargs.get("alpha", 1)
    factors = [1.0, float(alpha) if isinstance(alpha, (int, float)) else 1.0]
    if at.name in ("sub", "subtract"):
        factors[1] = -factors[1]
        if (centred := _centred(at)) is not None:
            return centred
    if at.name == "rsub":
        factors = [-factors[1], 1.0]
    if at.model.nominal and (turn := _turn(at)):
        factors = [factor * turn for factor in factors]
    back, sizes = [], []
    for operand, factor in zip(at.node.args[:2], factors, strict=True):
        if (size := at.added(operand)) is not None:
            sizes.append(scaled(size, factor))
        if isinstance(operand, fx.Node) and at.kind(operand) == "data" and floats(operand):
            back.append(Back(operand, abs(factor)))
    return Local(together(sizes), tuple(back))


def _turn(at: At) -> float:
    """Of a cos + b sin, where the squares of the two tables sum to 1: a rotation, of gain 1, not of |cos| + |sin|. What
    makes their sum 1; 0 for any other sum.
    """
    tables = []
    for term in at.node.args[:2]:
        if not isinstance(term, fx.Node) or op_name(term) not in ("aten.mul", "aten.mul_"):
            return 0.0
        constants = [c for c in term.all_input_nodes if isinstance(c.meta.get("concrete"), Tensor)]
        tables += [constants[0].meta["concrete"].double()] if len(constants) == 1 else []
    if len(tables) != 2 or tables[0].shape != tables[1].shape or not tables[0].numel():
        return 0.0
    squares = tables[0].square() + tables[1].square()
    if float((squares - 1).abs().max()) > _CLOSE:
        return 0.0
    return 1 / sum(float(table.square().mean().sqrt()) for table in tables)


def _centred(at: At) -> Local | None:
    """x - mean(x): a projection, of gain 1 and without a mean; not the sum of its two paths."""
    first, second = at.node.args[:2]
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node) or at.node.kwargs.get("alpha", 1) != 1:
        return None
    if op_name(second) != "aten.mean" or second.args[0] is not first:
        return None
    if at.kind(first) != "data":
        return None
    return Local(Size(at.size(first).deviation or at.size(first).rms), (Back(first, 1.0),))


@gain("aten.mul", "aten.multiply")
def multiplied(at: At) -> Local:
    """A number scales; a weight or a table of constants counts by its RMS; two activations scale each other."""
    first, second = at.node.args[:2]
    if at.kind(first) == "data" and at.kind(second) == "data":
        return _of_two(at, first, second)
    operand, other = (first, second) if at.kind(first) == "data" else (second, first)
    assert isinstance(operand, fx.Node)
    factor = at.any_size(other)
    if factor.deviation == 0 and factor.mean and not at.model.nominal and _tables_own(operand):
        return Local(at.size(operand), (Back(operand, factor.rms),))
    if factor.deviation == 0:
        return Local(scaled(at.size(operand), factor.mean), (Back(operand, factor.rms),))
    size = at.size(operand)
    both = Size(size.rms * factor.rms, size.mean * factor.mean, size.sign * factor.sign)
    return Local(both, (Back(operand, factor.rms),))


def _tables_own(node: fx.Node) -> bool:
    """Whether rows were just looked up: the multiple of a table counts as of size 1 itself, as a weight's does."""
    while op_name(node) in ("aten.dropout", "aten._to_copy", "aten.to"):
        node = node.all_input_nodes[0]
    return op_name(node) == "aten.embedding"


def _of_two(at: At, first: object, second: object) -> Local:
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    a, b = at.size(first), at.size(second)
    if first is second:
        fourth = 3 * a.deviation**4 + 6 * a.deviation**2 * a.mean**2 + a.mean**4
        return Local(Size(math.sqrt(fourth), a.rms**2, 1), (Back(first, b.rms), Back(second, a.rms)))
    size = Size(a.rms * b.rms, a.mean * b.mean, a.sign * b.sign)
    return Local(size, (Back(first, b.rms), Back(second, a.rms)))


@gain("aten.div", "aten.true_divide", "aten.divide")
def divided(at: At) -> Local:
    """x / y at the sizes of both: slopes 1/y and x/y^2. A y that hardly varies is its mean."""
    first, second = at.node.args[:2]
    if at.kind(second) != "data":
        by = at.any_size(second)
        if by.rms == 0:
            raise LookupError("division by zero")
        operand = at.data[0]
        return Local(scaled(at.size(operand), 1 / (by.mean or by.rms)), (Back(operand, 1 / by.rms),))
    assert isinstance(second, fx.Node)
    if at.kind(first) != "data":
        return pointwise(at)
    assert isinstance(first, fx.Node)
    x, y = at.size(first), at.size(second)
    if y.rms == 0:
        raise LookupError("division by zero")
    if not at.model.nominal and not steady(y):
        raise TailsError("a quotient by what may be next to nothing")
    size = Size(x.rms / y.rms, x.mean / y.rms, x.sign * y.sign)
    return Local(size, (Back(first, 1 / y.rms), Back(second, x.rms / y.rms**2)))


@gain("aten.where", "aten.masked_fill", "aten.maximum", "aten.minimum", "aten.fmax", "aten.lerp")
def chosen(at: At) -> Local:
    """Each entry comes from one of the operands."""
    data = at.data
    size = max((at.size(operand) for operand in data), key=lambda size: size.rms)
    return Local(size, tuple(Back(operand, 1.0) for operand in data))


# What is written takes the place of as many entries.
_REPLACING = frozenset({
    "copy", "slice_scatter", "select_scatter", "after_write", "index_copy", "scatter", "masked_scatter",
})  # fmt: skip


@gain("aten.copy", "aten.masked_scatter", "aten.slice_scatter", "aten.select_scatter", "aten.scatter",
      "effects.after_write", "aten.index_copy", "aten.index_fill", "aten.slice_backward")  # fmt: skip
def written(at: At) -> Local:
    """A part of the entries is replaced: sizes and changes count by their share of them."""
    base = at.node.args[0]
    assert isinstance(base, fx.Node)
    sources = [source for source in at.data if source is not base]
    whole = math.prod(at.shape) or 1
    shares = [1.0 if at.name == "copy" else min(math.prod(shape_of(node)) / whole, 1.0) for node in sources]
    rest = max(1 - sum(shares), 0.0) if at.name in _REPLACING else 1.0
    # The gradient goes past a write that autograd didn't see.
    unseen = at.name == "after_write" and not all(is_seen(source, base) for source in at.node.all_input_nodes[1:])
    back, sizes = [], []
    for operand, share in zip((base, *sources), (rest, *shares), strict=True):
        if (size := at.added(operand)) is not None:
            sizes.append(Size(size.rms * math.sqrt(share), size.mean * share, size.sign))
        if at.kind(operand) == "data" and floats(operand) and (operand is base or not unseen):
            back.append(Back(operand, 1.0 if at.model.nominal or unseen else math.sqrt(share)))
    return Local(beside(sizes), tuple(back))


def beside(sizes: Iterable[Size]) -> Size:
    """The size of entries beside each other, each with the root of its share in it."""
    parts = list(sizes)
    signs = {part.sign for part in parts}
    rms = math.sqrt(sum(part.rms**2 for part in parts))
    return Size(rms, sum(part.mean for part in parts), signs.pop() if len(signs) == 1 else 0)


@gain("aten.index_add", "aten.scatter_add", "aten.scatter_reduce", "aten.index_reduce")
def gathered(at: At) -> Local:
    """Rows added into a tensor: every row is there once, and more of them than places add up there."""
    base, source = at.node.args[0], at.node.args[3]
    assert isinstance(source, fx.Node)
    share = math.prod(shape_of(source)) / max(math.prod(at.shape), 1)
    back, sizes = [], []
    for operand, part in ((base, 1.0), (source, share)):
        if (size := at.added(operand)) is not None:
            sizes.append(Size(size.rms * math.sqrt(part), size.mean * part, size.sign))
        if isinstance(operand, fx.Node) and at.kind(operand) == "data":
            back.append(Back(operand, 1.0 if at.model.nominal else math.sqrt(part)))
    return Local(together(sizes), tuple(back))


@gain("aten.addcmul")
def added_product(at: At) -> Local:
    """a + value * b * c."""
    base, *factors = at.node.args[:3]
    value = at.node.kwargs.get("value", 1)
    number = abs(float(value)) if isinstance(value, (int, float)) else 1.0
    sizes, back = [], []
    if at.kind(base) == "data" and isinstance(base, fx.Node):
        sizes.append(at.size(base))
        back.append(Back(base, 1.0))
    product = number * math.prod(at.rms(factor) for factor in factors)
    sizes.append(Size(product))
    for factor, other in (factors, factors[::-1]):
        if isinstance(factor, fx.Node) and at.kind(factor) == "data":
            back.append(Back(factor, number * at.rms(other)))
    return Local(together(sizes), tuple(back))
