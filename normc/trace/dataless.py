"""What Python asks a tensor for beside any op: its array, its text. A fake tensor has neither: they are answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_ASKED = ("numpy", "__format__")


@contextlib.contextmanager
def answered(real: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, fake tensors give the array and the text of `real(fake)`."""
    plain: Callable[[Tensor, str], str] = torch.Tensor.__format__
    own = {name: torch.Tensor.__dict__.get(name) for name in _ASKED}

    def numpy(tensor: Tensor, *, force: bool = False) -> Any:
        return torch._C.TensorBase.numpy(real(tensor) if isinstance(tensor, FakeTensor) else tensor, force=force)

    def text(tensor: Tensor, spec: str) -> str:
        if not isinstance(tensor, FakeTensor) or tensor.dim():
            return plain(tensor, spec)
        return format(real(tensor).item(), spec)

    for name, stand_in in zip(_ASKED, (numpy, text), strict=True):
        setattr(torch.Tensor, name, stand_in)
    try:
        yield
    finally:
        for name, before in own.items():
            if before is None:
                delattr(torch.Tensor, name)
            else:
                setattr(torch.Tensor, name, before)
