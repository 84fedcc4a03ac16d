"""What all tests share: golden texts, re-blessed by `pytest --bless`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from normc import pipeline
from normc.plans.plan import NormPlan
from normc.update.program.build import Build
from normc.update.program.module import Loaded

# One thread a process where several run side by side: small models only wait for each other otherwise.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

# The same examples in every run, and no failure for a machine that is busy.
settings.register_profile("normc", derandomize=True, deadline=None)
settings.load_profile("normc")

# Every fact and every program is checked where it is made.
os.environ.setdefault("NORMC_CHECK", "1")

GOLDEN = Path(__file__).parent / "golden"
Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="write the golden texts instead of comparing with them")


@pytest.fixture(autouse=True, scope="session")
def plain_arithmetic() -> Iterator[None]:
    """The target "cpu" means float32 here, whatever this machine's CPU has; bf16 is tested by its name.

    For the whole session, since a module's fixtures are made before those of its tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normc.backends.cpu.fast_bf16", lambda: False)
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with tests/golden/<name>, or write it there under --bless."""
    bless = bool(request.config.getoption("--bless"))

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        text = text.rstrip("\n") + "\n"
        if bless:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"there is no {path.name} yet: run pytest --bless and read what it wrote"
        assert text == path.read_text(encoding="utf-8"), (
            f"{name} differs: if that is meant, run pytest --bless and read the diff"
        )

    return compare


@pytest.fixture
def updates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal plans get the update that was loaded first: loading is most of the time of a few tiny steps."""
    monkeypatch.setattr(pipeline, "update_of", _update_of)


_loaded = functools.lru_cache(maxsize=64)(pipeline.update_of)


def _update_of(plan: NormPlan, build: Build) -> Loaded:
    return _loaded(plan, replace(build, nonfinite="raise"))  # the same update, whatever the policy
