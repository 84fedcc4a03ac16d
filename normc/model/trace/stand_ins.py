"""Fake twins: the model runs on tensors that have a shape, a dtype and a device, but no data."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from normc.model.trace.values import Structure


class Twins:
    """The fake twin of every real tensor that a trace meets; one tensor has one twin, so ties stay ties."""

    def __init__(self, model: nn.Module, inputs: Structure) -> None:
        tensors = [*model.parameters(), *model.buffers(), *pytree.tree_leaves(inputs)]
        modes = (tensor.fake_mode for tensor in tensors if isinstance(tensor, FakeTensor))
        self.mode: FakeTensorMode = next(modes, None) or FakeTensorMode(allow_non_fake_inputs=False)
        self._memo: dict[int, tuple[Tensor, Tensor]] = {}
        self._originals: dict[int, Tensor] = {}
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.device = torch.device("cpu") if device.type == "meta" else device

    def of(self, tensor: Tensor) -> Tensor:
        """The twin of `tensor`; of a meta tensor, one on the CPU, so that it agrees with constants made in forward."""
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in self._memo:
            self._memo[id(tensor)] = (tensor, twin := self._make(tensor))
            self._originals[id(twin)] = tensor
        return self._memo[id(tensor)][1]

    def original(self, twin: Tensor) -> Tensor:
        """The real tensor that `twin` stands for; `twin` itself if it stands for none."""
        return self._originals.get(id(twin), twin)

    def _make(self, tensor: Tensor) -> Tensor:
        if tensor.layout is not torch.strided:
            return self.mode.from_tensor(tensor.detach(), static_shapes=True)
        device = self.device if tensor.device.type == "meta" else tensor.device
        meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        twin = FakeTensor(self.mode, meta, device)
        if isinstance(tensor, nn.Parameter):
            own = {key: value for key, value in vars(tensor).items() if not hasattr(twin, key)}
            twin.requires_grad_(tensor.requires_grad)._is_param = True  # as nn.Parameter does, without a detached copy
            twin.__dict__.update(own)
            return twin
        return twin.requires_grad_() if tensor.requires_grad else twin

    def move_in(self, modules: Iterable[nn.Module]) -> None:
        """Swap every parameter and buffer for its twin. The snapshot of `untouched` puts the real ones back.

        A scripted module keeps its tensors where no snapshot sees them: they stay, and are swapped op by op.
        """
        for module in modules:
            if isinstance(module, torch.jit.ScriptModule):
                continue
            for tensors in (module._parameters, module._buffers):
                for name, tensor in list(tensors.items()):
                    if tensor is not None:
                        tensors[name] = self.of(tensor)  # type: ignore[assignment]  # a twin of a parameter is one


@contextlib.contextmanager
def converted_in_sight() -> Iterator[None]:
    """Inside, a module that its own forward moves or casts holds what its twins become, a result of the parameters.

    Torch would swap fake tensors in place, which fails wherever something refers to them weakly.
    """
    plain: Any = nn.Module._apply

    def applied(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        held: tuple[dict[str, Any], ...] = module._parameters, module._buffers
        if not any(isinstance(tensor, FakeTensor) for tensors in held for tensor in tensors.values()):
            moved: nn.Module = plain(module, change, recurse)
            return moved
        for child in module.children() if recurse else ():
            child._apply(change)
        with torch.enable_grad():
            for tensors in held:
                for name, tensor in list(tensors.items()):
                    if tensor is not None and (changed := change(tensor)) is not tensor:
                        changed._is_param = isinstance(tensor, nn.Parameter)  # as torch's
                        tensors[name] = changed
        return module

    nn.Module._apply = applied  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = plain  # type: ignore[method-assign]


@contextlib.contextmanager
def quiet_fakes() -> Iterator[None]:
    """Fake kernels log every data-dependent question that they can't answer; we answer those."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
