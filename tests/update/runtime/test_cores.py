"""When cores are compiled: never by how long anything takes, so that a run is a function of its inputs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from normc.compiler import build
from normc.optimizer import Optimizer
from normc.update.program.build import build_of
from normc.update.runtime.run import Cores
from tests.handmade import Small, plan_of, small_rows, train


def made(**options: Any) -> tuple[Small, Optimizer]:
    torch.manual_seed(0)
    model = Small()
    return model, build(plan_of(small_rows(model), "scion"), model.named_parameters(), lr=1e-2, **options)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions that were given to torch.compile, which leaves them as they are."""
    names: list[str] = []

    def note(function: Callable[..., Any], **_: object) -> Callable[..., Any]:
        names.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", note)
    return names


def test_by_default_nothing_is_compiled_on_a_cpu(compiled: list[str]) -> None:
    model, opt = made()
    plain, eager = made(compile=False)
    train(model, [opt], 3)
    train(plain, [eager], 3)
    assert compiled == []
    assert torch.equal(weights(model), weights(plain))


def test_asked_for_it_is(compiled: list[str]) -> None:
    model, opt = made(compile=True)
    train(model, [opt], 2)
    assert "core_vectors" in compiled and len(set(compiled)) == len(compiled)


@pytest.mark.parametrize("compile", [None, False, True])
def test_copies_and_pickles_know_what_was_asked(compile: bool | None) -> None:
    _, opt = made(compile=compile)
    assert opt.cores.enabled is compile
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.cores.enabled is compile and other.build.compile is compile


@pytest.mark.parametrize(("device", "asked", "expected"), [
    ("cpu", None, 0), ("cpu", True, 1), ("cpu", False, 0), ("meta", None, 1), ("meta", True, 1), ("meta", False, 0),
])  # fmt: skip
def test_a_device_that_launches_kernels_gets_compiled_ones(
    compiled: list[str], device: str, asked: bool | None, expected: int
) -> None:
    def core(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x + 1.0,)

    Cores(asked).call(core, (torch.ones(3, device=device),))
    assert len(compiled) == expected


def test_a_resumed_run_is_the_run() -> None:
    """Nothing that a checkpoint doesn't hold decides which code a step runs."""
    model, opt = made()
    train(model, [opt], 2)
    twin, resumed = made()
    twin.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(model, [opt], 3, 1)
    train(twin, [resumed], 3, 1)
    assert torch.equal(weights(model), weights(twin))


def test_none_is_what_is_asked_by_default() -> None:
    assert build_of("cpu").compile is None and build_of("cpu", compile=True).compile is True
