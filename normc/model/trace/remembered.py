"""What ops gave for operands of the same form: fake tensors of torch remember it too, but take five times as long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from normc.model.trace.values import tensors_in

_UNSAFE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
_PLAIN = (int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True, slots=True)
class Form:
    """What a fake tensor is made of."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Remembered:
    """Runs ops on fake tensors of one mode, or makes what they gave before.

    Only ops of ATen that write to nothing and give one new tensor, whose form follows from the forms of their operands.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        # By id, as hashing an op runs Python code; with the op itself, so that no id is given to another.
        self._pure: dict[int, tuple[bool, torch._ops.OpOverload]] = {}
        self._known: dict[object, Form | None] = {}

    def run(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """func(*args, **kwargs)."""
        if id(func) not in self._pure:
            self._pure[id(func)] = _pure(func), func
        if not self._pure[id(func)][0] or torch.is_inference_mode_enabled():
            return func(*args, **kwargs)
        key = self.key(func, args, kwargs)
        if key is None:
            return func(*args, **kwargs)
        if (form := self._known.get(key)) is not None:
            return self._made(form)
        out = func(*args, **kwargs)
        if key not in self._known:
            self._known[key] = self._form(out, tensors_in((args, kwargs)))
        return out

    def key(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object | None:
        """What decides the form of a result, if nothing but forms does; None for operands that aren't plain."""
        try:
            return id(func), torch.get_default_dtype(), self._forms(args), *map(self._forms, kwargs.items())
        except _UnlikeError:
            return None

    def _made(self, form: Form) -> Tensor:
        with no_dispatch():
            empty = torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device="meta")
        return FakeTensor(self._mode, empty, form.device)

    def _forms(self, leaf: Any) -> object:
        """What of an operand decides the form of a result. Numbers with their types: 1 is not 1.0, nor True."""
        if isinstance(leaf, Tensor):
            return self._form_of(leaf)
        if type(leaf) in _PLAIN:
            return type(leaf), leaf
        if type(leaf) in (list, tuple):
            return type(leaf), tuple(map(self._forms, leaf))
        raise _UnlikeError

    def _form_of(self, tensor: Tensor) -> object:
        if (
            type(tensor) is not FakeTensor
            or tensor.fake_mode is not self._mode
            or tensor.constant is not None
            or tensor.layout is not torch.strided
            or tensor.is_conj()
            or tensor.is_neg()
            or tensor.is_inference()
        ):
            raise _UnlikeError
        shape, stride = tuple(tensor.shape), tensor.stride()
        if not all(type(size) is int for size in (*shape, *stride)):
            raise _UnlikeError
        return shape, stride, tensor.storage_offset(), tensor.dtype, tensor.fake_device

    def _form(self, out: Any, operands: list[Tensor]) -> Form | None:
        """Of a result, if nothing else is to be known of it: it is new, and fills its memory from the start."""
        try:
            self._form_of(out)
        except _UnlikeError:
            return None
        with no_dispatch():
            again = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device="meta")
        memory = out.untyped_storage()
        fills = memory.nbytes() == again.untyped_storage().nbytes() and out.storage_offset() == 0
        own = memory._cdata not in {tensor.untyped_storage()._cdata for tensor in operands}
        if not fills or not own or out.requires_grad:
            return None
        return Form(tuple(out.shape), out.stride(), out.dtype, out.fake_device)


class _UnlikeError(Exception):
    """An operand that is no plain fake tensor and no plain value."""


def _pure(func: torch._ops.OpOverload) -> bool:
    schema = func._schema
    returns = schema.returns
    return (
        func.namespace == "aten"
        and not schema.is_mutable
        and len(returns) == 1
        and str(returns[0].type) == "Tensor"
        and all(value.alias_info is None for value in (*returns, *schema.arguments))
        and not _UNSAFE & set(func.tags)
    )
