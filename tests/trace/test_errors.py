"""Errors name the op, the module and the line; and nothing stays changed after one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc import errors
from normc.trace import trace


class _Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.log: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.linear(x))
        self.log.append(y)
        self.extra = y
        return y + torch.ones(3)


def test_the_op_the_module_and_the_line_are_named() -> None:
    model = nn.Sequential(_Broken())
    with pytest.raises(errors.NormcError) as caught:
        trace(model, (torch.randn(2, 4),), {})
    line = _Broken.forward.__code__.co_firstlineno + 4
    assert f"aten.add in 0 (test_errors.py:{line})" in caught.value.problem
    assert "Sequential" in caught.value.problem
    assert caught.value.fix


def test_nothing_stays_changed_after_an_error() -> None:
    inner = _Broken()
    model = nn.Sequential(inner)
    linear, norm = inner.linear.weight, inner.norm.running_mean
    state, call = torch.get_rng_state(), nn.Module.__call__
    with pytest.raises(errors.NormcError):
        trace(model, (torch.randn(2, 4, generator=torch.Generator().manual_seed(0)),), {})
    assert norm is not None and inner.linear.weight is linear and inner.norm.running_mean is norm
    assert inner.log == [] and not hasattr(inner, "extra")
    assert model.training and norm.sum() == 0
    assert torch.equal(torch.get_rng_state(), state) and nn.Module.__call__ is call


def test_inputs_that_do_not_fit_are_the_users_error() -> None:
    with pytest.raises(errors.NormcError, match=r"aten.linear in the model itself.*RuntimeError"):
        trace(nn.Linear(4, 4), (torch.randn(2, 5),), {})
    with pytest.raises(errors.NormcError, match="TypeError"):
        trace(nn.Linear(4, 4), (), {})


def test_lazy_parameters_are_named() -> None:
    with pytest.raises(errors.NormcError, match="run one forward pass first"):
        trace(nn.LazyLinear(4), (torch.randn(2, 5),), {})


def test_a_forward_without_tensors_is_an_error() -> None:
    model: Any = nn.Linear(2, 2)
    model.forward = lambda x: 3
    with pytest.raises(errors.NormcError, match="returns no tensor"):
        trace(model, (torch.randn(2, 2),), {})


def test_a_torch_without_the_guard_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_AutoDispatchBelowAutograd")
    with pytest.raises(errors.NormcError, match=r"2\.10 to 2\.13"):
        trace(nn.Linear(2, 2), (torch.randn(1, 2),), {})
