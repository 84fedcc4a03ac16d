"""The fused buckets of an optimizer, stepped by the layout of the parameters that have gradients. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor

from normc.update.runtime.layout import ADDRESS, DTYPE, Layout
from normc.update.runtime.native import MANY, background
from normc.update.runtime.run import Bucket, Update
from normc.update.runtime.tables import Store, look, same

_LAYOUTS = 8  # kept, with their graphs
_GRAD: Callable[[Tensor], Tensor | None] = attrgetter("grad")


class Launcher:
    """Steps an optimizer's fused buckets. Layouts are kept by which parameters have gradients."""

    def __init__(
        self, update: Update, buckets: Sequence[Bucket], members: Mapping[str, Tensor], store: Store, policy: str
    ) -> None:
        self._update, self._buckets, self._store, self._policy = update, buckets, store, policy
        self.last: Layout | None = None
        self.members, self.state = members, store.state
        self._names = [name for bucket in buckets for name in bucket.names if name in members]
        self._parameters = [members[name] for name in self._names]
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self.native = background(len(self._parameters) >= MANY)

    def _check(self, check: Callable[[str, Tensor], object]) -> None:
        for name, parameter in zip(self._names, self._parameters, strict=True):
            if parameter.grad is not None:
                check(name, parameter)

    def step(
        self,
        groups: Sequence[Mapping[str, Any]],
        graphs: bool,
        check: Callable[[str, Tensor], object],
        outside: Tensor | None = None,
    ) -> bool:
        """One step of all fused buckets, by the layout that is then the `last`. `check` fails on a gradient that no
        update can take; `outside` is the flag of others' gradients. False, with nothing done, for stacks of several
        dtypes.
        """
        self.last = None
        loops = self.native.loops
        looked = None if loops is None else loops.look(self._parameters)
        try:
            without, signature, weights, addresses = looked or look(self._parameters)
        except RuntimeError:  # of gradients that have no memory of their own
            self._check(check)
            raise
        if not addresses:
            return True
        for _ in range(2):
            layout = self._layouts.get(without)
            if layout is None or not layout.snapshot.still(loops):
                self._check(check)
                while len(self._layouts) >= _LAYOUTS:
                    self._layouts.pop(next(iter(self._layouts)))
                layout = self._layouts[without] = Layout(
                    self._update, self._buckets, self.members, self._store, self._policy
                )
            if layout.mixed:
                return False
            if signature is None or signature != layout.signature:
                grads: list[Any] = list(map(_GRAD, layout.originals))
                if all(map(Tensor.is_contiguous, grads)) and same(list(map(DTYPE, grads)), layout.dtypes):
                    layout.signature = signature
                else:  # As kernels read them, and kept until these are under way.
                    grads = [grad.to(dtype).contiguous() for grad, dtype in zip(grads, layout.dtypes, strict=True)]
                    addresses = list(map(ADDRESS, grads))
            if layout.feed(addresses, weights, groups):
                layout.step(graphs and "graph" not in self._update.without, outside)
                self.last = layout
                return True
            self._layouts.clear()
        raise AssertionError("tables made anew fit")
