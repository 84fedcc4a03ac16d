"""What takes long says so, by the logger "normc"."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
import torch

from normc.update.runtime import progress as module
from normc.update.runtime.progress import progress
from normc.update.runtime.run import Cores


class Seen(logging.Handler):
    """Notes lines, and that there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.any = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.any.set()


@pytest.fixture
def seen() -> Iterator[Seen]:
    handler, logger = Seen(), logging.getLogger("normc")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_what_takes_long_is_told_while_it_does_and_at_its_end(seen: Seen) -> None:
    with progress("compiling core_3", patience=0.0):
        assert seen.any.wait(60)  # it is said while the block runs
    assert seen.records[0].getMessage() == "compiling core_3: 0 s so far"
    assert seen.records[0].levelno == logging.WARNING
    assert seen.records[-1].getMessage().startswith("compiling core_3: done after ")
    assert seen.records[-1].levelno == logging.INFO


def test_what_is_quick_says_nothing(seen: Seen) -> None:
    with progress("compiling core_3", patience=3600.0):
        pass
    assert seen.records == []
    assert not [thread for thread in threading.enumerate() if thread.name == "normc-progress"]


def test_a_mistake_goes_through_and_ends_the_telling(seen: Seen) -> None:
    with pytest.raises(ValueError, match="mine"), progress("compiling", patience=3600.0):
        raise ValueError("mine")
    assert not [thread for thread in threading.enumerate() if thread.name == "normc-progress"]


def test_a_core_that_compiles_names_itself_and_its_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def note(what: str) -> AbstractContextManager[None]:
        told.append(what)
        return module.progress(what)

    def core_7(w: torch.Tensor, lr: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (w - lr * w,)

    monkeypatch.setattr("normc.update.runtime.run.progress", note)
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    cores = Cores(enabled=True)
    for _ in range(2):
        (found,) = cores.call(core_7, (torch.ones(3, 4, 5), torch.tensor(0.5)))
    assert torch.equal(found, torch.full((3, 4, 5), 0.5))
    assert told == ["compiling core_7 for 3 x 4 x 5 and a number"]
