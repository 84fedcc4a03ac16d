"""Compiled loops come and go without a word: no compiler, a broken one, several processes, between two steps."""

from __future__ import annotations

import copy
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from normc.compiler import build
from normc.update.runtime import native
from tests.handmade import Small, plan_of, small_rows
from tests.update.fused.interpreted import TARGET, farthest, give, interpreter

pytest.importorskip("triton")
__all__ = ["interpreter"]  # a fixture of every test here


@pytest.fixture(scope="session")
def loops() -> Any:
    try:
        return native.compiled()
    except (OSError, ImportError, subprocess.SubprocessError) as error:
        pytest.skip(f"no compiled loops: {error}")


def compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a script the compiler, with an empty cache, whose folder is returned."""
    file = folder / "c++"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("CXX", str(file))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder / "cache"))
    return folder / "cache" / "normc_host"


def made() -> native.Background:
    """One whose thread has ended."""
    found = native.Background()
    for thread in threading.enumerate():
        if thread.name == "normc_host":
            thread.join(60)
    return found


@pytest.mark.parametrize(
    "script", ["exit 1", 'while [ "$1" != -o ]; do shift; done; echo no library > "$2"'], ids=["fails", "nonsense"]
)
def test_a_compiler_that_does_not_work_costs_nothing_but_time(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    folder = compiler(tmp_path, script, monkeypatch)
    assert made().loops is None
    assert len(list(folder.iterdir())) == (0 if script == "exit 1" else 1)
    assert not recwarn.list


def test_no_compiler_and_no_wish_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = compiler(tmp_path, "exit 1", monkeypatch)
    monkeypatch.setenv("CXX", str(tmp_path / "nowhere"))
    assert made().loops is None
    monkeypatch.setenv("NORMC_NATIVE", "0")
    monkeypatch.setattr(native, "compiled", lambda: pytest.fail("compiled, though nobody wants it"))
    assert made().loops is None
    assert not list(folder.iterdir())


def test_several_at_once_leave_one_library(loops: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = f'while [ "$1" != -o ]; do shift; done; head -c 9999 {loops.__file__} > "$2"; sleep 0.3'
    folder = compiler(tmp_path, f'{slow}; cp {loops.__file__} "$2"', monkeypatch)
    every = [native.Background() for _ in range(4)]
    last = made()
    assert all(own.loops is not None for own in (*every, last))
    assert len(list(folder.iterdir())) == 1


def test_loops_may_come_between_any_two_steps(loops: Any) -> None:
    torch.manual_seed(0)
    ours = Small(width=8, layers=2)
    plain = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), "muon")
    fast = build(plan, ours.named_parameters(), lr=5e-3, backend=TARGET, compile=False)
    slow = build(plan, plain.named_parameters(), lr=5e-3, backend="reference")
    for step, on in enumerate([False, True, False, True, True, False]):
        give([ours, plain], step, (1, 3) if step % 3 == 2 else ())
        if fast._launcher is not None:
            fast._launcher.native = SimpleNamespace(loops=loops if on else None)  # type: ignore[assignment]  # alike
        fast.step()
        slow.step()
    assert farthest(ours, plain) < 2e-5


def test_what_loops_say_is_what_torch_says(loops: Any) -> None:
    """And None for what has no plain memory: a sparse gradient, a tensor that Python computes with."""
    parameters = [torch.nn.Parameter(torch.randn(4, 4)) for _ in range(5)]
    for parameter in parameters[1:]:
        parameter.grad = torch.randn(4, 4)
    parameters[2].grad = torch.randn(4, 4).t()
    without, kinds, weights, gradients = loops.look(parameters)
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert without == (0,)
    assert list(memoryview(weights).cast("q")) == [parameter.data_ptr() for parameter in parameters[1:]]
    assert list(memoryview(gradients).cast("q")) == [grad.data_ptr() for grad in grads]
    assert [kind >= 128 for kind in kinds] == [not grad.is_contiguous() for grad in grads]
    parameters[3].grad = torch.randn(4, 4).to_sparse()
    assert loops.look(parameters) is None
    assert loops.look(tuple(parameters)) is None
    assert loops.look([object()]) is None
    assert loops.look([]) == ((), b"", b"", b"")


def test_loops_compare_objects_not_values(loops: Any) -> None:
    one, other, name = torch.ones(1), torch.ones(1), "exp_avg"
    assert loops.same([one, other], [one, other])
    assert not loops.same([one, other], [one, one])
    assert not loops.same([one], [one, one])
    assert not loops.same((one,), [one])
    assert loops.holds({1: one, 2: other}, [one, other])
    assert not loops.holds({1: one, 2: other}, [other, one])
    assert not loops.holds([one], [one])
    assert loops.named([{name: one, "b": other}] * 2, (name, "b"), [one, other] * 2)
    assert not loops.named([{"b": one, name: other}], (name, "b"), [one, other])
    assert not loops.named([{name: one, "b": other}], (name,), [one])
    assert not loops.named([{name: one}], (name, "b"), [one, other])
    assert not loops.named([[one]], (name,), [one])
