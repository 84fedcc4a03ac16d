"""Turns of large models, and the streams that they run in side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from normc.update.runtime import fused as runtime
from tests.update.fused.interpreted import farthest, give, interpreter, pair

pytest.importorskip("triton")
__all__ = ["interpreter"]  # a fixture of every test here


def test_large_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "AT_ONCE", 5000)  # bytes: two matrices of 16 x 32 hold more
    ours, fast, plain, slow = pair("modular-dual")
    for step in range(2):
        give([ours, plain], step)
        fast.step()
        slow.step()
    assert farthest(ours, plain) < 2e-5


def test_turns_side_by_side_hold_less_than_a_gibibyte() -> None:
    for shape in ((64, 64), (768, 3072), (1600, 6400), (4096, 4096), (4096, 14336), (14336, 4096), (8192, 8192)):
        turns = runtime.turns_of(1000, shape)
        most = -(-1000 // turns) * runtime.stack_bytes(shape)
        lanes = runtime.lanes_of(most)
        assert lanes * most < 2**30 - 3 * 2**25 or (lanes, turns) == (1, 1000)
        assert (lanes == runtime.LANES) == (most <= runtime.AT_ONCE)


class Recorder:
    """Stands for torch.cuda: streams, and graphs that keep what is called while they record, in one diary."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.now, made = "main", 0
        owner = self

        class Stream:
            def __init__(self, *_: object) -> None:
                nonlocal made
                made += 1
                self.name = f"lane {made}"

            def wait_stream(self, other: Stream) -> None:
                owner.diary.append(f"{self.name} waits for {other.name}")

        class Graph:
            def __init__(self) -> None:
                self.calls: list[str] = []

            def replay(self) -> None:
                owner.diary.extend(self.calls)

        self.Stream, self.CUDAGraph = Stream, Graph
        self.main = Stream()
        self.main.name, made = "main", 0

    @contextmanager
    def graph(self, graph: Any, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        before, self.diary = self.diary, graph.calls
        yield
        self.diary = before

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.now = self.now, stream.name
        yield
        self.now = before

    def current_stream(self) -> Any:
        return self.main

    def turn(self, name: str, held: int) -> Any:
        return SimpleNamespace(step=lambda: self.diary.append(f"{name} in {self.now}"), stack_bytes=lambda: held)

    def empty(self, size: int, **_: object) -> None:
        self.diary.append(f"{size} bytes in {self.now}")


@pytest.mark.parametrize("number", [1, 2, 5])
def test_lanes_run_all_turns_once_between_what_is_before_and_after(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Recorder()
    for name in ("Stream", "CUDAGraph", "graph", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(device, name))
    monkeypatch.setattr(torch, "empty", device.empty)
    lanes = runtime.Lanes(torch.device("cuda"))
    turns = [device.turn(f"turn {index}", 10 - index) for index in range(number)]
    lanes.run(turns)
    eager = list(device.diary)
    again = lanes.recorded(turns)
    assert device.diary == eager
    again()
    replayed = device.diary[len(eager) :]
    assert [line for line in replayed if "bytes" not in line] == eager
    side = ["lane 1", "lane 2"][: number - 1]
    for index, lane in enumerate(["main", *side]):  # each has room for its largest turn before the first of them
        own = [line for line in replayed if line.endswith(f" in {lane}")]
        assert own[0] == f"{10 - index} bytes in {lane}"
        assert [line for line in own[1:] if "bytes" in line] == []
    calls = [line for line in eager if line.startswith("turn")]
    assert sorted(line.split(" in ")[0] for line in calls) == [f"turn {index}" for index in range(number)]
    assert eager[: len(side)] == [f"{lane} waits for main" for lane in side]
    assert eager[len(eager) - len(side) :] == [f"main waits for {lane}" for lane in side]
    assert {line.split(" in ")[1] for line in calls} == {"main", *side}
