"""Concrete answers: the real values, beside the fake ones, of small tensors that depend on no parameter.

A forward that asks `mask.all()` or `lengths.max().item()` about its inputs gets the true answer. Values drawn at random
answer too, but are not `certain`: they are never shown as known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from normc.model.trace.distributed import entries
from normc.model.trace.forms import filled
from normc.model.trace.values import Structure, map_leaves, storage_key, tensors_in

LARGEST = 200_000  # elements of one shadow
_LARGEST_TRIED = 20_000_000  # elements of all operands that are made up
_BUDGET = 64_000_000  # elements of all copies that writes force
KERNEL_ERRORS = (RuntimeError, TypeError, ValueError, IndexError)
UNFILLED = frozenset({"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"})
_OVERWRITING = frozenset({"fill_", "zero_", "copy_"})


class Known(NamedTuple):
    """What an op really gives: `value` on the CPU; `certain` unless something was drawn at random or never filled."""

    value: Structure
    certain: bool


class Form(NamedTuple):
    """A result of made-up numbers: `value` has the true form. `same` says which of its tensors are true, `decided`
    whether operands that are known had a say, and `certain` whether those are.
    """

    value: Structure
    same: tuple[bool, ...]
    decided: bool
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
        """`real` is the value of `fake`; it is copied, so that no write reaches it. Of shards nothing is known."""
        if real.numel() <= LARGEST and real.device.type != "meta" and real.layout is torch.strided:
            with _disable_current_modes(), torch.no_grad():
                if (whole := entries(real)) is not None:
                    self._put(fake, whole.detach().to("cpu", copy=True), certain=True)

    def put(self, fake: Structure, known: Known) -> None:
        """Keep what an op really gave, leaf by leaf; in-place results are already there."""
        for left, right in zip(tensors_in(fake), tensors_in(known.value), strict=False):
            if right.numel() <= LARGEST:
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

    def value(self, fake: Tensor) -> Tensor | None:
        """The real value of `fake`, where there is one. Not to be written to."""
        shadow = self._shadows.get(id(fake))
        return None if shadow is None else shadow.real

    @contextmanager
    def lent(self, found: dict[int, tuple[Tensor, Known]]) -> Iterator[None]:
        """Inside, these values are known, too, by the id of their fake. They are read only."""
        self._shadows |= {key: _Shadow(fake, known.value, known.certain) for key, (fake, known) in found.items()}
        try:
            yield
        finally:
            for key in found:
                del self._shadows[key]

    def forget(self, written: Tensor) -> None:
        """A value that isn't known was written to the storage of `written`: nothing in it is known any more."""
        key = storage_key(written)
        for identity in self._by_storage.pop(key, ()) if key is not None else (id(written),):
            self._shadows.pop(identity, None)

    def run(
        self, func: torch._ops.OpOverload, args: Structure, kwargs: Structure, written: list[Tensor]
    ) -> Known | None:
        """Run `func` on the real values of its operands; None unless all are known."""
        operands = tensors_in((args, kwargs))
        shadows = [self._shadows.get(id(tensor)) for tensor in operands]
        if any(shadow is None for shadow in shadows):
            return None
        self._protect([shadow.real for tensor in written if (shadow := self._shadows.get(id(tensor))) is not None])
        real_args, real_kwargs = map_leaves(args, self._real), map_leaves(kwargs, self._real)
        name = func.overloadpacket.__name__
        with _disable_current_modes(), torch.no_grad():
            try:
                value = func(*real_args, **real_kwargs)
            except KERNEL_ERRORS:
                return None
            if name in UNFILLED:
                value.zero_()  # no garbage: a trace is the same every time
        drawn = torch.Tag.nondeterministic_seeded in func.tags or name in UNFILLED
        sources = shadows[1:] if name in _OVERWRITING else shadows
        known = Known(value, not drawn and all(shadow is not None and shadow.certain for shadow in sources))
        for tensor in written:
            self._renew(tensor, known.certain)
        return known

    def form(self, func: torch._ops.OpOverload, args: Structure, kwargs: Structure) -> Form | None:
        """The form of what `func` gives, if numbers that aren't known don't decide it: any others give the same."""
        first, second = (self.tried(func, args, kwargs, alike) for alike in (True, False))
        shapes = [map_leaves(value, _shape) for value in (first, second)]
        if first is None or shapes[0] != shapes[1]:
            return None
        shadows = [self._shadows.get(id(tensor)) for tensor in tensors_in((args, kwargs))]
        deciding = [shadow for shadow in shadows if shadow is not None]
        pairs = zip(tensors_in(first), tensors_in(second), strict=True)
        with _disable_current_modes():
            same = [not one.dtype.is_floating_point and torch.equal(one, other) for one, other in pairs]
        return Form(first, tuple(same), bool(deciding), all(shadow.certain for shadow in deciding))

    def tried(self, func: torch._ops.OpOverload, args: Structure, kwargs: Structure, alike: bool) -> Structure | None:
        """What `func` gives with made-up numbers where operands aren't known; None if they are large, or it raises."""
        if sum(tensor.numel() for tensor in tensors_in((args, kwargs))) > _LARGEST_TRIED:
            return None

        def real(leaf: Any) -> Any:
            made_up = isinstance(leaf, Tensor) and id(leaf) not in self._shadows
            return filled(leaf, alike) if made_up else self._real(leaf)

        with _disable_current_modes(), torch.no_grad():
            try:
                return func(*map_leaves(args, real), **map_leaves(kwargs, real))
            except KERNEL_ERRORS:
                return None

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


def _shape(leaf: Any) -> Any:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf
