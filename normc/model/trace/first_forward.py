"""Waiting for a model's first real forward, where nothing else says what it eats."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

# What a host may call in place of the module itself (Lightning), and what it writes to on the way.
_STEP = "training_step"
_LOGS = ("log", "log_dict")
_TABLES = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")


def on_first_forward(model: nn.Module, callback: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> Awaited:
    """Call `callback(args, kwargs)` once, before the model's first forward on real tensors; a trace's don't count.

    The callback sees the model as it was; if it raises, the next forward calls it again. Copies and pickles of the
    model wait for nothing. `.remove()` cancels.

    A host may call `model.training_step` instead of the model. If that doesn't call the model either, the callback
    comes behind it, and for as long as it runs, the model's forward is its `training_step`.
    """
    return Awaited(model, callback)


class Awaited:
    """A model that is awaited: its hook, and what takes it away again."""

    def __init__(self, model: nn.Module, callback: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> None:
        self._model, self._callback = weakref.ref(model), callback
        self._handle: Any = None
        self._arm(model)

    @property
    def model(self) -> nn.Module | None:
        """The model, as long as it is awaited."""
        return self._model() if self._handle is not None else None

    def remove(self) -> None:
        """Wait no longer."""
        model, handle = self._model(), self._handle
        if model is None or handle is None:
            return
        self._handle = None
        handle.remove()
        own = vars(model)  # a compiled module hands on what is set on it
        own.update({table: OrderedDict() for table in _TABLES if type(own[table]) is _Unshared and not own[table]})
        if type(own.get(_STEP)) is _Step:
            del own[_STEP]

    def _arm(self, model: nn.Module) -> None:
        own = vars(model)
        # Handles of others know a table that has hooks, so only an empty one is replaced.
        own.update({table: _Unshared() for table in _TABLES if not own[table]})
        self._handle = model.register_forward_pre_hook(_Hook(self), prepend=True, with_kwargs=True)
        for table in _TABLES:
            if type(own[table]) is _Unshared:
                own[table].kept |= {self._handle.id}
        if callable(getattr(type(model), _STEP, None)) and _STEP not in own:
            own[_STEP] = _Step(self, model)

    def arrived(self, args: tuple[Any, ...], kwargs: dict[str, Any], entrance: str = "forward") -> None:
        """The model is called, or has been by another entrance."""
        model = self.model
        if model is None:
            return
        tensors = [*pytree.tree_leaves((args, kwargs)), next(model.parameters(), None)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return
        self.remove()
        callback = self._callback
        if "torch._dynamo" in sys.modules:  # the forward may be one that is being compiled: none of this is part of it
            callback = torch._dynamo.disable(callback)
        try:
            with _entered_by(model, entrance):
                callback(args, kwargs)
        except BaseException:
            self._arm(model)
            raise

    # It runs as Python, also inside a model that is being compiled: by the names of torch.compiler.disable, which would
    # import the compiler.
    arrived._torchdynamo_disable = True  # type: ignore[attr-defined]
    arrived._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
        "normc plans at the model's first forward, which breaks that forward's graph; "
        "fix: give normc.compile example_inputs, or the compiled model"
    )


@contextlib.contextmanager
def _entered_by(model: nn.Module, entrance: str) -> Iterator[None]:
    """The model's forward is this method of it, which logs nothing."""
    if entrance == "forward":
        yield
        return
    own = vars(model)
    stand_ins = {"forward": getattr(model, entrance), **{name: _nothing for name in _LOGS if hasattr(model, name)}}
    before = {name: own[name] for name in stand_ins if name in own}
    own.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del own[name]
        own.update(before)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """In place of a module's log."""


class _Unshared(OrderedDict[int, Any]):
    """A table of hooks that is copied and pickled as a plain one, without those that are `kept`."""

    kept: frozenset[int] = frozenset()

    def move_to_end(self, key: int, last: bool = True) -> None:
        """Hooks that are put in front later (FSDP casts inputs in one) stay behind those that are kept."""
        for own in [key, *(() if last else self.kept & set(self))]:
            super().move_to_end(own, last)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return OrderedDict, ([(key, value) for key, value in self.items() if key not in self.kept],)


class _Hook:
    """What is called before the forward. A copy, or what comes out of a pickle, does nothing, and needs no normc."""

    def __init__(self, awaited: Awaited) -> None:
        self._awaited = awaited

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._awaited.arrived(args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


class _Step:
    """What stands for a module's training_step. A copy, or what comes out of a pickle, is the copy's own method."""

    def __init__(self, awaited: Awaited, model: nn.Module) -> None:
        self._awaited, self._model = awaited, weakref.ref(model)
        self.__name__, self.__doc__ = _STEP, getattr(type(model), _STEP).__doc__

    @property
    def __wrapped__(self) -> Any:
        """By which a host sees whose method it is."""
        model = self._model()
        return getattr(type(model), _STEP).__get__(model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.__wrapped__(*args, **kwargs)
        self._awaited.arrived(args, kwargs, _STEP)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model(), _STEP)
