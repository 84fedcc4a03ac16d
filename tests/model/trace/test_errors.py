"""Errors name the op, the module and the line; and nothing stays changed after one."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc import errors
from normc.model.trace.frontend import trace


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
    with pytest.raises(errors.NormcError, match="returns no tensor, but an object of type int"):
        trace(model, (torch.randn(2, 2),), {})


class _Net(nn.Module):
    """Runs a function of itself and x as its forward."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.body = nn.Linear(4, 6), nn.Linear(6, 3), body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


class _OddError(Exception):
    """No kin of any error of Python's."""


def _raising(error: Exception) -> Callable[[Any, Tensor], Any]:
    def body(net: Any, x: Tensor) -> Any:
        raise error

    return body


@pytest.mark.parametrize("error", [_OddError("odd"), ImportError("absent"), StopIteration(), AssertionError()])
def test_whatever_the_models_code_raises_is_its_own_error(error: Exception) -> None:
    with pytest.raises(errors.NormcError) as caught:
        trace(_Net(_raising(error)), (torch.randn(2, 4),), {})
    line = _raising.__code__.co_firstlineno + 2
    assert caught.value.problem.startswith("the forward of _Net fails on these example inputs: in the model itself")
    assert f"(test_errors.py:{line}) raised {type(error).__name__}" in caught.value.problem
    assert "call the model on these inputs without normc" in caught.value.fix


def test_an_op_that_cannot_be_traced_is_told_apart() -> None:
    body = lambda net, x: net.b(torch.nested.nested_tensor([net.a(x)[0], net.a(x)[1]]).to_padded_tensor(0.0))  # noqa: E731
    with pytest.raises(errors.NormcError, match=r"normc can't trace the forward of _Net: aten\._nested") as caught:
        trace(_Net(body), (torch.randn(2, 4),), {})
    assert "use torch ops that need no data at test_errors.py:" in caught.value.fix


def test_an_op_of_a_library_is_asked_for_its_fake_kernel() -> None:
    library = torch.library.Library("strange", "FRAGMENT")
    library.define("picky(Tensor x) -> Tensor")

    def picky(x: Tensor) -> Tensor:
        if x.unique().numel() != 7:
            raise ValueError("seven values, please")
        return x * 2

    library.impl("picky", picky, "CPU")
    with pytest.raises(errors.NormcError, match=r"normc can't trace .*strange\.picky in the model itself") as caught:
        trace(_Net(lambda net, x: net.b(torch.ops.strange.picky(net.a(x)))), (torch.randn(2, 4),), {})
    assert caught.value.fix == 'say what it gives without data: @torch.library.register_fake("strange::picky")'


def test_a_check_that_no_answer_passes_is_told_apart() -> None:
    def body(net: Any, x: Tensor) -> Any:
        y = net.a(x)
        if y.sum() > 0:
            raise ValueError("positive")
        raise ValueError("negative")

    with pytest.raises(errors.NormcError, match="fails whatever a trace answers") as caught:
        trace(_Net(body), (torch.randn(2, 4),), {})
    assert caught.value.fix.startswith("let test_errors.py:")


def test_a_trace_that_takes_too_long_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normc.model.trace.recorder._LIMIT", -1)
    with pytest.raises(errors.NormcError, match="takes too long to trace") as caught:
        trace(nn.Linear(4, 4), (torch.randn(2, 4),), {})
    assert "smaller example inputs" in caught.value.fix


class _Lazy:
    """What computes when it is asked: it holds the model and what it was given, but no tensor that weights computed."""

    def __init__(self, net: Any, width: int) -> None:
        self.net, self.width = net, width

    def log_prob(self, x: Tensor) -> Tensor:
        return self.net.b(self.net.a(x)).sum(-1)


class _Held:
    """Tensors in slots, a function's variables and a partial."""

    __slots__ = ("deep", "function", "partial")

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.deep = {"k": [first]}
        self.function = lambda: second
        self.partial = functools.partial(torch.add, second)


def test_an_object_that_computes_when_it_is_asked_is_an_error() -> None:
    with pytest.raises(errors.NormcError, match="returns no tensor, but an object of type _Lazy") as caught:
        trace(_Net(lambda net, x: _Lazy(net, x.shape[-1])), (torch.randn(2, 4),), {})
    assert "what the loss asks it for" in caught.value.fix


def test_an_output_that_no_parameter_computed_is_an_error() -> None:
    def body(net: Any, x: Tensor) -> Any:
        found = _Lazy(net, 4)
        found.base = torch.distributions.Normal(torch.zeros(3), torch.ones(3))  # type: ignore[attr-defined]
        return found

    for forward in (body, lambda net, x: net.b(net.a(x)).argmax(-1), lambda net, x: net.b(net.a(x)).detach()):
        with pytest.raises(errors.NormcError, match="no gradient of what the forward of _Net returns") as caught:
            trace(_Net(forward), (torch.randn(2, 4),), {})
        assert "of a distribution, its log_prob" in caught.value.fix


def test_tensors_inside_an_object_are_outputs() -> None:
    plan = normc.plan(_Net(lambda net, x: _Held(net.a(x), net.b(net.a(x)))), torch.randn(2, 4))
    assert all(row.role != "unused" for row in plan.rows)


@pytest.mark.parametrize("kind", [dict, list, tuple, deque])
def test_tensors_inside_a_container_of_ones_own_are_outputs(kind: type) -> None:
    own = type("Own", (kind,), {})

    def forward(net: Any, x: torch.Tensor) -> object:
        first, second = net.a(x), net.b(net.a(x))
        return own(first=first, second=second) if kind is dict else own([first, second])

    plan = normc.plan(_Net(forward), torch.randn(2, 4))
    assert all(row.role != "unused" for row in plan.rows)


def test_a_model_most_of_which_is_not_reached_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"most of the model would not learn: .* 2 of 4 parameters, 30 of 51 entries"):
        plan = normc.plan(_Net(lambda net, x: net.b(net.a(x).detach())), torch.randn(2, 4))
    assert any("see that forward returns what the loss is made of" in note for note in plan.notes)


def test_a_torch_without_the_guard_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_AutoDispatchBelowAutograd")
    with pytest.raises(errors.NormcError, match=r"2\.10 to 2\.13"):
        trace(nn.Linear(2, 2), (torch.randn(1, 2),), {})
