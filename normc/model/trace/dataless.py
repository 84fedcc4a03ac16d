"""What Python asks a tensor for beside any op: its array, its text, whether it needs a gradient. Fakes are answered."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from normc.model.trace.provenance import own_file

_BASE: Any = torch._C.TensorBase


class GradientFunction:
    """Stands for the `grad_fn` of an activation."""


@contextlib.contextmanager
def answered(real: Callable[[Tensor], Tensor], learns: Callable[[Tensor], bool]) -> Iterator[None]:
    """Inside, fake tensors give the array and the text of `real(fake)`, and need a gradient if `learns(fake)`."""
    plain: Callable[[Tensor, str], str] = torch.Tensor.__format__

    def numpy(tensor: Tensor, *, force: bool = False) -> Any:
        if not isinstance(tensor, FakeTensor):
            return _BASE.numpy(tensor, force=force)
        with _disable_current_modes():
            return _BASE.numpy(real(tensor))

    def text(tensor: Tensor, spec: str) -> str:
        if not isinstance(tensor, FakeTensor) or tensor.dim():
            return plain(tensor, spec)
        with _disable_current_modes():
            return format(real(tensor).item(), spec)

    def computed(tensor: Tensor) -> bool:
        """Whether autograd would have recorded `tensor`, if the model's own code asks; torch's knows what is so."""
        asks = sys._getframe(2).f_code.co_filename
        return bool(own_file(asks)) and not _BASE.requires_grad.__get__(tensor) and learns(tensor)

    def needs_gradient(tensor: Tensor) -> bool:
        return computed(tensor) or bool(_BASE.requires_grad.__get__(tensor))

    def function(tensor: Tensor) -> object:
        return GradientFunction() if computed(tensor) else _BASE.grad_fn.__get__(tensor)

    def is_leaf(tensor: Tensor) -> bool:
        return not computed(tensor) and bool(_BASE.is_leaf.__get__(tensor))

    asked: tuple[tuple[type, str, object], ...] = (
        (torch.Tensor, "numpy", numpy),
        (torch.Tensor, "__format__", text),
        (FakeTensor, "requires_grad", property(needs_gradient, _BASE.requires_grad.__set__)),
        (FakeTensor, "grad_fn", property(function)),
        (FakeTensor, "is_leaf", property(is_leaf)),
    )
    own = [kind.__dict__.get(name) for kind, name, _ in asked]
    for kind, name, answer in asked:
        setattr(kind, name, answer)
    try:
        yield
    finally:
        for (kind, name, _), before in zip(asked, own, strict=True):
            if before is None:
                delattr(kind, name)
            else:
                setattr(kind, name, before)
