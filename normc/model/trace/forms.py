"""Forms of results: of ops whose fake kernels refuse what real ones take, and of those whose shape depends on data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from normc.model.trace.values import Structure, map_leaves, tensors_in


def grouped_mm(
    left: Tensor,
    right: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The shape of aten._grouped_mm, whose own fake kernel takes nothing but bfloat16 in aligned memory. No guess."""
    if left.dim() == 3 and right.dim() == 3:
        shape: tuple[int, ...] = (left.shape[0], left.shape[1], right.shape[2])
    elif left.dim() == 2 and right.dim() == 2:
        shape = (offs.shape[0] if offs is not None else 1, left.shape[0], right.shape[1])
    else:
        shape = (left.shape[-2], right.shape[-1])
    return torch.empty(shape, dtype=out_dtype or left.dtype, device=left.device)


def packed_lstm(data: Tensor, batch_sizes: Tensor, hx: list[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    """The shapes of an LSTM over packed sequences: the fake kernel reads the sizes of the batches. No guess."""
    return (_packed(data, hx[0], rest[-1]), *(torch.empty_like(state) for state in hx))


def packed_rnn(data: Tensor, batch_sizes: Tensor, hx: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """The same of a GRU or a plain recurrent layer."""
    return _packed(data, hx, rest[-1]), torch.empty_like(hx)


def _packed(data: Tensor, state: Tensor, both_ways: bool) -> Tensor:
    return data.new_empty(data.shape[0], state.shape[-1] * (2 if both_ways else 1))


def whole_sequences(padded: Tensor, lengths: Tensor, batch_first: bool) -> Tensor:
    """The lengths of sequences without padding."""
    with _disable_current_modes():
        return torch.full(tuple(lengths.shape), padded.shape[1 if batch_first else 0])


_DISTINCT = 16  # numbers that are taken to differ, of many: what loops over classes goes round for each

# The form of a result, by the op's full name.
FORMS: dict[str, Callable[..., Structure]] = {
    "aten::_grouped_mm": grouped_mm,
    "aten::lstm.data": packed_lstm,
    "aten::gru.data": packed_rnn,
    "aten::rnn_tanh.data": packed_rnn,
    "aten::rnn_relu.data": packed_rnn,
}


def by_fake_kernel(func: torch._ops.OpOverload, args: Structure, kwargs: Structure) -> Structure:
    """The result's form as the op's own fake kernel has it: sizes that depend on data are the rows of what decides.

    RuntimeError or a kin of it if the op has no fake kernel that leaves such sizes open.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def open_form(leaf: Any) -> Any:
        return torch.empty(leaf.shape, dtype=leaf.dtype, device=leaf.device) if isinstance(leaf, Tensor) else leaf

    with mode:
        out = func(*map_leaves(args, open_form), **map_leaves(kwargs, open_form))
    rows = _rows(tensors_in((args, kwargs)))
    rows = min(rows, _DISTINCT) if "unique" in func.name() else rows

    def closed_form(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return _closed(leaf, rows)
        return torch.empty([_closed(n, rows) for n in leaf.shape], dtype=leaf.dtype, device=leaf.device)

    return map_leaves(out, closed_form)


def even_counts(func: torch._ops.OpOverload, args: Structure, kwargs: Structure) -> Tensor | None:
    """How often every number occurs if all occur as often, where an op counts (tokens of experts). None if it doesn't.

    Counts have to add up to what was counted: they are what a model splits it by.
    """
    values, bins = func._schema.arguments[0], {"aten::bincount": "minlength", "aten::histc": "bins"}.get(func.name())
    if bins is None:
        return None
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    numbers, size = given[values.name], given.get(bins, 100 if bins == "bins" else 0)
    if given.get("weights") is not None or not size:
        return None
    dtype = numbers.dtype if bins == "bins" else torch.long
    with _disable_current_modes():
        counts: Tensor = (torch.arange(size) < numbers.numel() % size) + numbers.numel() // size
        return counts.to(dtype)


def fitting_sizes(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a split, of whose sizes some are made up: if they don't add up, all parts are alike."""
    whole, sizes, *rest = args
    total, count = whole.shape[rest[0] if rest else 0], len(sizes)
    if sum(sizes) == total or not count:
        return args
    return whole, [total // count + (i < total % count) for i in range(count)], *rest


def _rows(operands: list[Tensor]) -> int:
    """One for each entry of the first axis of what decides: a mask, else an index, else the first operand."""
    shaped = [tensor for tensor in operands if tensor.dim()]
    if not shaped:
        return 1
    deciding = min(shaped, key=lambda tensor: (tensor.dtype != torch.bool, tensor.dtype.is_floating_point))
    return max(1, deciding.shape[0])


def _closed(size: Any, rows: int) -> Any:
    if not isinstance(size, torch.SymInt):
        return size
    expression, env = size.node.expr, size.node.shape_env
    least = {symbol: env.bound_sympy(symbol).lower for symbol in expression.free_symbols}
    return int(expression.xreplace({symbol: max(rows, lower) for symbol, lower in least.items()}))


def filled(tensor: Tensor, alike: bool) -> Tensor:
    """Numbers in the form of `tensor` on the CPU: ones, or else numbers that differ (of an index, the first place)."""
    if alike:
        return torch.ones(tensor.shape, dtype=tensor.dtype)
    if not tensor.dtype.is_floating_point:
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    drawn = torch.randn(math.prod(tensor.shape), generator=torch.Generator().manual_seed(0))
    return drawn.to(tensor.dtype).reshape(tensor.shape)
