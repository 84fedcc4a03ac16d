"""Kernels that compile side by side in a pass that runs none of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from normc.update.kernels import ahead, language

CUDA = torch.device("cuda")


class _Kernel:
    """Stands for Triton's kernels: knows how it was launched."""

    def __init__(self, source: Any, **names: tuple[str, ...]) -> None:
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


def test_what_is_compiled_is_loaded_by_the_same_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: dict[str, torch.device] = {}
    monkeypatch.setattr(torch.cuda, "set_device", lambda d: devices.update({threading.current_thread().name: d}))

    class Compiled:
        loaded = ""

        @property
        def run(self) -> None:
            self.loaded = threading.current_thread().name

    class Unloadable:
        @property
        def run(self) -> None:
            raise RuntimeError("out of shared memory")

    with ahead._Loading(CUDA) as pool:
        kernel = pool.submit(Compiled).result()
        with pytest.raises(RuntimeError, match="shared"):
            pool.submit(Unloadable).result()
    assert devices[kernel.loaded] == CUDA and kernel.loaded != threading.current_thread().name


def test_a_driver_is_prepared_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    done = threading.Event()

    class Driver:
        @property
        def active(self) -> None:
            asked.append(threading.current_thread())
            done.set()
            raise RuntimeError("no C compiler")

    monkeypatch.setattr(ahead, "triton", SimpleNamespace(runtime=SimpleNamespace(driver=Driver())))
    monkeypatch.setattr(ahead, "runs_kernels", lambda device: True)
    ahead.prepare(torch.device("cpu"))
    assert not asked
    ahead.prepare(CUDA)
    assert done.wait(10) and asked[0] is not threading.current_thread()


def test_what_finds_kernels_on_disk_is_computed_before_they_are_asked_for(
    kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    slow = threading.Event()

    def key() -> None:
        slow.wait(10)
        done.append("key")

    driver = SimpleNamespace(active=SimpleNamespace(get_current_target=lambda: "sm_90"))
    backend = SimpleNamespace(hash=lambda: done.append("assembler"))
    stand_in = SimpleNamespace(
        runtime=SimpleNamespace(driver=driver, cache=SimpleNamespace(triton_key=key)),
        compiler=SimpleNamespace(make_backend=lambda target: backend),
        AsyncCompileMode=_Mode,
    )
    monkeypatch.setattr(ahead, "triton", stand_in)
    monkeypatch.setattr(ahead, "runs_kernels", lambda device: True)
    ahead.prepare(CUDA)
    threading.Timer(0.05, slow.set).start()
    ahead.compile_ahead(lambda: done.append("launch"), CUDA)
    assert done == ["assembler", "key", "launch"]


def test_triton_has_what_is_prepared() -> None:
    triton = pytest.importorskip("triton")
    assert callable(triton.runtime.cache.triton_key)
    assert callable(triton.compiler.make_backend)
