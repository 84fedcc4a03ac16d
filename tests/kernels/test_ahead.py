"""Kernels that compile side by side in a pass that runs none of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from normc.kernels import ahead, language

CUDA = torch.device("cuda")


class _Kernel:
    """Stands for Triton's kernels: knows how it was launched."""

    def __init__(self, source: Any, do_not_specialize: tuple[str, ...]) -> None:
        self.launches: list[tuple[tuple[Any, ...], bool]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args: self.run(*args, grid=grid, warmup=False)

    def run(self, *args: Any, grid: tuple[int, ...], warmup: bool) -> None:
        self.launches.append((args, warmup))


class _Mode:
    """Stands for Triton's: knows the executor, and whether it was left."""

    made: ClassVar[list[_Mode]] = []

    def __init__(self, executor: Any, *, ignore_errors: bool) -> None:
        self.executor, self.ignore_errors, self.left = executor, ignore_errors, False
        self.made.append(self)

    def __enter__(self) -> _Mode:
        return self

    def __exit__(self, *problem: object) -> None:
        self.left = True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    triton = SimpleNamespace(jit=_Kernel, AsyncCompileMode=_Mode)
    monkeypatch.setattr(language, "triton", triton)
    monkeypatch.setattr(ahead, "triton", triton)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    _Mode.made.clear()
    yield language.jit(lambda x: None)


def test_a_pass_ahead_launches_nothing_and_what_follows_does(kernel: Any) -> None:
    ahead.compile_ahead(lambda: kernel[(2,)](1), CUDA)
    kernel[(2,)](1)
    assert kernel.launches == [((1,), True), ((1,), False)]
    (mode,) = _Mode.made
    assert mode.left and mode.ignore_errors


def test_an_error_in_the_pass_ends_it(kernel: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        ahead.compile_ahead(lambda: kernel[(1 // len(_Mode.made[1:]),)](1), CUDA)
    kernel[(2,)](1)
    assert kernel.launches == [((1,), False)] and _Mode.made[0].left


def test_other_threads_launch_meanwhile(kernel: Any) -> None:
    def both() -> None:
        other = threading.Thread(target=lambda: kernel[(1,)]("theirs"))
        other.start()
        other.join()
        kernel[(1,)]("ours")

    ahead.compile_ahead(both, CUDA)
    assert kernel.launches == [(("theirs",), False), (("ours",), True)]


def test_no_pass_where_it_would_not_help(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead.compile_ahead(lambda: kernel[(1,)](1), torch.device("cpu"))
    with monkeypatch.context() as patches:
        patches.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        ahead.compile_ahead(lambda: kernel[(1,)](1), CUDA)
    monkeypatch.setattr(ahead, "triton", SimpleNamespace())  # too old for it
    ahead.compile_ahead(lambda: kernel[(1,)](1), CUDA)
    assert kernel.launches == [] and _Mode.made == []
