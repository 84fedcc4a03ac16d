"""Which dimensions of an op's operands go together, by asking the op: it is run on the meta device with some of them
twice as large, and it either runs or doesn't.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from normc.model.trace.forms import grouped_mm

Shape = tuple[int, ...]


# Arguments whose numbers are places, steps and counts, whatever their size.
_NO_SIZES = frozenset({
    "dim", "dims", "dim0", "dim1", "axis", "axes", "stride", "padding", "dilation", "kernel_size", "output_padding",
    "step", "offset", "diagonal", "padding_idx", "correction", "dimension", "source", "destination", "shifts",
    "upscale_factor", "downscale_factor", "exponent", "other", "alpha", "value", "fill_value",
})  # fmt: skip


_MOST = 12  # slots among which a group is looked for


class Slot(NamedTuple):
    """Dimension `place` of tensor operand number `operand`; or, with operand -1, the size that is literal `place`."""

    operand: int
    place: int


@dataclass(frozen=True, slots=True)
class Ties:
    """Slots that grow together, and for each dimension of each result the numbers of the groups that it grows with.

    `odd` marks results' dimensions that grow otherwise than in proportion.
    """

    groups: tuple[tuple[Slot, ...], ...]
    results: tuple[tuple[tuple[int, ...], ...], ...]
    odd: frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Question:
    """An op call without its graph: `form` holds an `_At` for each operand and `_Size` for each literal size."""

    target: Any
    form: Any
    shapes: tuple[Shape, ...]
    dtypes: tuple[torch.dtype, ...]
    literals: Shape

    def ask(self, shapes: Sequence[Shape], literals: Shape) -> list[Shape] | None:
        """Shapes of the results with these operands; None if the op refuses."""
        try:
            out = self.run(shapes, literals)
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, NotImplementedError):
            return None
        return [tuple(leaf.shape) for leaf in tensors(out)]

    def run(self, shapes: Sequence[Shape], literals: Shape) -> Any:
        """What the op makes of meta tensors. It raises what the op raises."""
        made = [
            torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in zip(shapes, self.dtypes, strict=True)
        ]

        def put(leaf: Any) -> Any:
            if isinstance(leaf, _At):
                return made[leaf.number]
            if isinstance(leaf, torch.device):
                return torch.device("meta")
            return literals[leaf.number] if isinstance(leaf, _Size) else leaf

        args, kwargs = _mapped(self.form, put)
        if self.target is torch.ops.aten._grouped_mm.default:
            return grouped_mm(*args, **dict(kwargs))
        return self.target(*args, **dict(kwargs))


class _At(NamedTuple):
    number: int


class _Size(NamedTuple):
    number: int


def tensors(out: Any) -> list[Tensor]:
    """Every tensor of a result, in order."""
    if isinstance(out, Tensor):
        return [out]
    return [tensor for part in out for tensor in tensors(part)] if isinstance(out, (tuple, list)) else []


def _mapped(form: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(form, _List):
        return [_mapped(part, change) for part in form.parts]
    if isinstance(form, tuple) and not isinstance(form, (_At, _Size)):
        return tuple(_mapped(part, change) for part in form)
    return change(form)


class _List(NamedTuple):
    parts: tuple[Any, ...]


def question(node: fx.Node) -> tuple[Question, list[fx.Node]]:
    """The call as a question, and its operands in their order. LookupError for what isn't an op on tensors."""
    operands: list[fx.Node] = []
    literals: list[int] = []
    if not isinstance(node.target, torch._ops.OpOverload):
        raise LookupError(str(node.target))
    names = [argument.name for argument in node.target._schema.arguments]

    def form(part: Any, sized: bool) -> Any:
        if isinstance(part, fx.Node):
            if not isinstance(part.meta.get("val"), Tensor):
                raise LookupError(part.name)
            if part not in operands:
                operands.append(part)
            return _At(operands.index(part))
        if isinstance(part, list):
            return _List(tuple(form(item, sized) for item in part))
        if isinstance(part, tuple):
            return tuple(form(item, sized) for item in part)
        if sized and isinstance(part, int) and not isinstance(part, bool) and part > 1:
            literals.append(part)
            return _Size(len(literals) - 1)
        return part

    args = tuple(form(part, name not in _NO_SIZES) for name, part in zip(names, node.args, strict=False))
    kwargs = tuple((name, form(part, name not in _NO_SIZES)) for name, part in node.kwargs.items())
    shapes = tuple(tuple(operand.meta["val"].shape) for operand in operands)
    dtypes = tuple(operand.meta["val"].dtype for operand in operands)
    return Question(node.target, (args, kwargs), shapes, dtypes, tuple(literals)), operands


def with_literals(node: fx.Node, literals: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the call with other literal sizes, numbered as in `question`."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    given = iter(literals)

    def put(part: Any, sized: bool) -> Any:
        if isinstance(part, (list, tuple)):
            return type(part)(put(item, sized) for item in part)
        literal = sized and isinstance(part, int) and not isinstance(part, bool) and part > 1
        return next(given) if literal else part

    args = tuple(put(part, name not in _NO_SIZES) for name, part in zip(names, node.args, strict=False))
    return args, {name: put(part, name not in _NO_SIZES) for name, part in node.kwargs.items()}


@lru_cache(maxsize=8192)
def ties(asked: Question) -> Ties | None:
    """What goes together in an op call; None where the op can't be run on the meta device."""
    before = asked.ask(asked.shapes, asked.literals)
    if before is None:
        return None
    slots = [Slot(i, d) for i, shape in enumerate(asked.shapes) for d, size in enumerate(shape) if size > 1]
    slots += [Slot(-1, i) for i in range(len(asked.literals))]
    groups: list[tuple[Slot, ...]] = []
    for slot in slots:
        if not any(slot in group for group in groups):
            group = _group(asked, slot, slots)
            if group:
                groups.append(group)
    results: list[list[tuple[int, ...]]] = [[() for _ in shape] for shape in before]
    odd = set()
    for number, group in enumerate(groups):
        after = _doubled(asked, group)
        if after is None or len(after) != len(before):
            continue
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            for d, (m, n) in enumerate(zip(old, new, strict=False)):
                if m != n:
                    results[i][d] = (*results[i][d], number)
                    if n != 2 * m:
                        odd.add((i, d))
    return Ties(tuple(groups), tuple(map(tuple, results)), frozenset(odd))


def _doubled(asked: Question, group: Sequence[Slot]) -> list[Shape] | None:
    shapes = [list(shape) for shape in asked.shapes]
    literals = list(asked.literals)
    for slot in group:
        if slot.operand < 0:
            literals[slot.place] *= 2
        else:
            shapes[slot.operand][slot.place] *= 2
    return asked.ask([tuple(shape) for shape in shapes], tuple(literals))


def _group(asked: Question, slot: Slot, slots: Sequence[Slot]) -> tuple[Slot, ...]:
    """The fewest slots, `slot` among them, that can grow together, literals only where need be; () if none can."""
    if _doubled(asked, [slot]) is not None:
        return (slot,)
    for others in _wider(asked, slot, slots):
        if not others or len(others) > _MOST or _doubled(asked, [slot, *others]) is None:
            continue
        for count in range(1, len(others) + 1):
            for chosen in itertools.combinations(others, count):
                if _doubled(asked, [slot, *chosen]) is not None:
                    return (slot, *chosen)
    return ()


def _wider(asked: Question, slot: Slot, slots: Sequence[Slot]) -> Iterator[list[Slot]]:
    """Other slots that may have to grow with `slot`: those of its size, then those of its multiples and parts."""
    own = size_at(asked, slot)
    same = [other for other in slots if size_at(asked, other) == own and other != slot]
    near = [other for other in slots if math.gcd(size_at(asked, other), own) in (own, size_at(asked, other))]
    near.remove(slot)
    for among in (same, near):
        yield [other for other in among if other.operand >= 0]
        yield among


def size_at(asked: Question, slot: Slot) -> int:
    """The size at a slot."""
    return asked.literals[slot.place] if slot.operand < 0 else asked.shapes[slot.operand][slot.place]
