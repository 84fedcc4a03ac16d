"""Real tensors that a model holds where no twin can be put stay as they are while others run its code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from normc.model.trace.effects import written_by
from normc.model.trace.values import map_leaves, storage_key, tensors_in


class Unwritten(TorchDispatchMode):
    """Inside, an op that would write to a real tensor from outside writes to a copy. A tracer above sees the write."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self._fresh: dict[int | None, Tensor] = {}  # by storage; kept, so that its id is never given to another
        self._versions: dict[int | None, tuple[Tensor, int]] = {}  # by storage, of what would have been written to

    def __exit__(self, *error: Any) -> None:
        """Autograd counts the writes that weren't carried out: put its counters back."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch gives it no types
        for tensor, version in self._versions.values():
            torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        given = [tensor for tensor in tensors_in((args, kwargs)) if not isinstance(tensor, FakeTensor)]
        if func.overloadpacket is torch.ops.aten.lift_fresh:
            self._fresh.update((storage_key(tensor), tensor) for tensor in given)
        held = [tensor for tensor in written_by(func, args, kwargs) if self._is_held(tensor)]
        for tensor in held:
            self._versions.setdefault(storage_key(tensor), (tensor, tensor._version))
        copies = {id(tensor): tensor.detach().clone() for tensor in held}
        args, kwargs = (map_leaves(part, lambda leaf: copies.get(id(leaf), leaf)) for part in (args, kwargs))
        out = func(*args, **kwargs)
        known = {storage_key(tensor) for tensor in given}
        for tensor in tensors_in(out):
            if not isinstance(tensor, FakeTensor) and storage_key(tensor) not in known:
                self._fresh[storage_key(tensor)] = tensor
        originals = {id(copies[id(tensor)]): tensor for tensor in held}
        return map_leaves(out, lambda leaf: originals.get(id(leaf), leaf))

    def _is_held(self, tensor: Tensor) -> bool:
        return not isinstance(tensor, FakeTensor) and storage_key(tensor) not in self._fresh
