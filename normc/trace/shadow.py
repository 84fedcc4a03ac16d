"""Concrete answers: the real values, beside the fake ones, of small tensors that depend on no parameter.

A forward that asks `mask.all()` or `lengths.max().item()` about its inputs gets the true answer. Values drawn at random
answer too, but are not `certain`: they are never shown as known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from normc.trace.values import Structure, map_leaves, storage_key, tensors_in

LARGEST = 200_000  # elements of one shadow
_BUDGET = 64_000_000  # elements of all copies that writes force
_KERNEL_ERRORS = (RuntimeError, TypeError, ValueError, IndexError)
_UNFILLED = frozenset({"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"})
_OVERWRITING = frozenset({"fill_", "zero_", "copy_"})


class Known(NamedTuple):
    """What an op really gives: `value` on the CPU; `certain` unless something was drawn at random or never filled."""

    value: Structure
    certain: bool


class _Shadow(NamedTuple):
    fake: Tensor  # kept, so that its id is never given to another
    real: Tensor
    certain: bool


class Shadows:
    """Real values by fake tensor. Views of a shadow share its memory, so writes are seen by all aliases."""

    def __init__(self) -> None:
        self._shadows: dict[int, _Shadow] = {}
        self._by_storage: dict[int, list[int]] = {}
        self._shown: dict[int, list[fx.Node]] = {}
        self._budget = _BUDGET

    def give(self, fake: Tensor, real: Tensor) -> None:
        """`real` is the value of `fake`; it is copied, so that no write reaches it."""
        if real.numel() <= LARGEST and real.device.type != "meta" and real.layout is torch.strided:
            with _disable_current_modes(), torch.no_grad():
                self._put(fake, real.detach().to("cpu", copy=True), certain=True)

    def put(self, fake: Structure, known: Known) -> None:
        """Keep what an op really gave, leaf by leaf; in-place results are already there."""
        for left, right in zip(tensors_in(fake), tensors_in(known.value), strict=False):
            self._put(left, right, known.certain)

    def _put(self, fake: Tensor, real: Tensor, certain: bool) -> None:
        self._shadows[id(fake)] = _Shadow(fake, real, certain)
        if (key := storage_key(fake)) is not None:
            self._by_storage.setdefault(key, []).append(id(fake))

    def show(self, fake: Tensor, node: fx.Node) -> None:
        """Put the value of `fake` on its node as `concrete`, where it is certain."""
        shadow = self._shadows.get(id(fake))
        if shadow is None or not shadow.certain or shadow.real.numel() > LARGEST:
            return
        node.meta["concrete"] = shadow.real
        if (key := storage_key(shadow.real)) is not None:
            self._shown.setdefault(key, []).append(node)

    def forget(self, written: Tensor) -> None:
        """A value that isn't known was written to the storage of `written`: nothing in it is known any more."""
        key = storage_key(written)
        for identity in self._by_storage.pop(key, ()) if key is not None else (id(written),):
            self._shadows.pop(identity, None)

    def run(
        self, func: torch._ops.OpOverload, args: Structure, kwargs: Structure, written: list[Tensor]
    ) -> Known | None:
        """Run `func` on the real values of its operands; None unless all are known and small."""
        operands = tensors_in((args, kwargs))
        shadows = [self._shadows.get(id(tensor)) for tensor in operands]
        if any(shadow is None for shadow in shadows) or sum(tensor.numel() for tensor in operands) > 2 * LARGEST:
            return None
        self._protect([shadow.real for tensor in written if (shadow := self._shadows.get(id(tensor))) is not None])
        real_args, real_kwargs = map_leaves(args, self._real), map_leaves(kwargs, self._real)
        name = func.overloadpacket.__name__
        with _disable_current_modes(), torch.no_grad():
            try:
                value = func(*real_args, **real_kwargs)
            except _KERNEL_ERRORS:
                return None
            if name in _UNFILLED:
                value.zero_()  # no garbage: a trace is the same every time
        drawn = torch.Tag.nondeterministic_seeded in func.tags or name in _UNFILLED
        sources = shadows[1:] if name in _OVERWRITING else shadows
        known = Known(value, not drawn and all(shadow is not None and shadow.certain for shadow in sources))
        for tensor in written:
            self._renew(tensor, known.certain)
        return known

    def form(self, func: torch._ops.OpOverload, args: Structure, kwargs: Structure, deciding: int) -> Known | None:
        """What `func` gives if all but the operand at place `deciding` were nought: right in shape, if that is known.

        The value means nothing and is nobody's to keep.
        """
        if len(args) <= deciding or sum(tensor.numel() for tensor in tensors_in((args, kwargs))) > 2 * LARGEST:
            return None
        deciders = [self._shadows.get(id(tensor)) for tensor in tensors_in(args[deciding])]
        if not deciders or any(shadow is None for shadow in deciders):
            return None
        with _disable_current_modes(), torch.no_grad():
            try:
                value = func(*map_leaves(args, self._real_or_nought), **map_leaves(kwargs, self._real_or_nought))
            except _KERNEL_ERRORS:
                return None
        return Known(value, all(shadow is not None and shadow.certain for shadow in deciders))

    def _real_or_nought(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and id(leaf) not in self._shadows:
            return torch.zeros(leaf.shape, dtype=leaf.dtype)
        return self._real(leaf)

    def _renew(self, written: Tensor, certain: bool) -> None:
        """An uncertain write makes every alias uncertain; a certain one mends only the tensor written to."""
        identities = [id(written)]
        if not certain and (key := storage_key(written)) is not None:
            identities = self._by_storage.get(key, identities)
        for identity in identities:
            self._shadows[identity] = self._shadows[identity]._replace(certain=certain)

    def _real(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return self._shadows[id(leaf)].real
        return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

    def _protect(self, written: list[Tensor]) -> None:
        """Copy what nodes show of storages that are about to be written."""
        for real in written:
            key = storage_key(real)
            for node in self._shown.pop(key, ()) if key is not None else ():
                shown = node.meta["concrete"]
                self._budget -= shown.numel()
                if self._budget < 0:
                    del node.meta["concrete"]
                    continue
                with _disable_current_modes():
                    node.meta["concrete"] = shown.clone()
