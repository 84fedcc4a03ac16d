"""Where in the model an op was called: innermost module, line of the model's own code, whether autograd records."""

from __future__ import annotations

import contextlib
import functools
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import _SingleLevelFunction

from normc import version

_PACKAGE = Path(version.__file__).parent
_LIBRARIES = tuple(
    path.resolve() for path in (Path(torch.__file__).parent, _PACKAGE, _PACKAGE / "passes", _PACKAGE / "backends")
)
_PYTHON = Path(sysconfig.get_path("stdlib")).resolve()


@functools.cache
def own_file(path: str) -> str:
    """The name of the file at `path`; "" if it is torch's, normc's or Python's own."""
    found = Path(path).resolve()
    own = {"site-packages", "dist-packages"}.isdisjoint(found.parts) and found.is_relative_to(_PYTHON)
    generated = path.startswith(("<frozen", "<string", "<attrs", "<__array"))
    foreign = generated or own or any(found.is_relative_to(library) for library in _LIBRARIES)
    return "" if foreign else found.name


def is_entry(path: str, function: str) -> bool:
    """Whether that function, in the file at `path`, is the last of normc's before the model's own code."""
    return function == Provenance.run.__name__ and path == Provenance.run.__code__.co_filename


@functools.cache
def _expressions(code: CodeType) -> tuple[int, ...]:
    """For each instruction, the first of those of the same expression: once it is warm, Python runs another of them."""
    first: dict[object, int] = {}
    places = enumerate(code.co_positions())
    return tuple(at if place[2] is None else first.setdefault(place, at) for at, place in places)


class Site(NamedTuple):
    """A place in a model's code: the path of its module, `file.py:line`, and which of its code's expressions it is."""

    module: str
    source: str
    call: int


class Provenance:
    """Follows the calls of one model's modules."""

    def __init__(self, model: nn.Module) -> None:
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._stack: list[str] = [""]
        self._recording: list[bool] = []
        self._failure: tuple[BaseException, str] | None = None
        self._line: str | None = None
        self._callers: set[tuple[int, int]] = set()
        self.visited: set[str] = set()  # names of the Python modules whose functions have called an op, at any distance

    @property
    def module(self) -> str:
        """The path of the innermost running module."""
        return self._stack[-1]

    @property
    def grad(self) -> bool:
        """Whether gradients flow through the op that runs: a custom autograd function's forward is recorded as one."""
        return self._recording[-1] if self._recording else torch.is_grad_enabled()

    def source(self) -> str:
        """`file.py:line` of the innermost frame of the model's own code, or ""."""
        return self.site().source

    def site(self) -> Site:
        """Where in the model's own code the op is called."""
        if self._line is not None:
            return Site(self.module, self._line, 0)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not Provenance.run.__code__:
            if name := own_file(frame.f_code.co_filename):
                self._visit(frame)
                return Site(self.module, f"{name}:{frame.f_lineno}", _expressions(frame.f_code)[frame.f_lasti // 2])
            frame = frame.f_back
        return Site(self.module, "", 0)

    def _visit(self, innermost: FrameType) -> None:
        """Note the Python modules of all frames, where this function hasn't been seen below that one yet."""
        frame: FrameType | None = innermost.f_back
        pair = id(innermost.f_code), id(frame.f_code if frame is not None else None)
        if pair in self._callers:
            return
        self._callers.add(pair)
        frame = innermost
        while frame is not None and frame.f_code is not Provenance.run.__code__:
            if own_file(frame.f_code.co_filename):
                self.visited.add(frame.f_globals.get("__name__", ""))
            frame = frame.f_back

    def stand(self, module: str, source: str) -> None:
        """From now on every op counts as called there: a graph is run, and no Python of the model's."""
        self._stack, self._line = [module], source

    def run(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `model` returns. Frames below this one are the caller's, not the model's."""
        with self.following():
            return model(*args, **kwargs)

    def failed_in(self, error: BaseException) -> str:
        """The path of the module in which `error` was raised."""
        if self._line is not None:
            return self.module
        return self._failure[1] if self._failure is not None and self._failure[0] is error else ""

    @property
    def in_function(self) -> bool:
        """Whether the forward of a custom autograd function runs."""
        return bool(self._recording)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Patch nn.Module.__call__, and what runs a custom autograd function, while the model runs."""
        call = nn.Module.__call__
        nn.Module.__call__ = self._watch(call)  # type: ignore[method-assign]
        try:
            with within_functions(self._recorded):
                yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]

    def _watch(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(id(module))
            if path is None:
                return call(module, *args, **kwargs)
            self._stack.append(path)
            try:
                return call(module, *args, **kwargs)
            except BaseException as error:
                if self._failure is None or self._failure[0] is not error:
                    self._failure = (error, path)
                raise
            finally:
                self._stack.pop()

        return watched

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        self._recording.append(self.grad)
        try:
            yield
        finally:
            self._recording.pop()


@contextlib.contextmanager
def within_functions(what: Callable[[], contextlib.AbstractContextManager[object]]) -> Iterator[None]:
    """Inside, `what()` is entered around the forward of every custom autograd function.

    `Function.apply` may have been looked up long before: what it calls next is watched.
    """
    base: Any = _SingleLevelFunction
    before = base.__dict__.get("apply")

    def apply(function: type, *args: Any, **kwargs: Any) -> Any:
        run = super(base, function).apply if before is None else before.__get__(None, function)
        with what():
            return run(*args, **kwargs)

    base.apply = classmethod(apply)
    try:
        yield
    finally:
        if before is None:
            del base.apply
        else:
            base.apply = before


def source_of(error: BaseException) -> str:
    """`file.py:line` of the innermost frame of the model's own code in the traceback of `error`, or ""."""
    found, trace, inside = "", error.__traceback__, False
    while trace is not None:
        inside = inside or trace.tb_frame.f_code is Provenance.run.__code__
        if inside and (name := own_file(trace.tb_frame.f_code.co_filename)):
            found = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found
