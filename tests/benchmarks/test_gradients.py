"""What counts as reached by autograd, and what as a difference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import normc
from benchmarks.sweep.gradients import Call, compared, differences, reached


@dataclass
class Result:
    main: Tensor
    more: dict[str, tuple[Tensor, ...]]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.apart = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.zero, self.index = nn.Parameter(torch.ones(3)), nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Result:
        h = self.a(x).detach() + self.b(x)
        return Result(h + 0 * self.zero, {"more": ((x @ self.index).argmax(-1), self.apart(x).detach())})


def test_reached_is_what_has_a_gradient_be_it_zero() -> None:
    net = Net()
    found = reached(net, ((torch.randn(2, 3),), {}))
    assert found == {id(net.b.weight), id(net.b.bias), id(net.zero)}


def test_a_complex_result_and_one_without_gradients_are_no_errors() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 3, dtype=torch.complex64))

        def forward(self, x: Tensor, grad: bool) -> Tensor:
            return x.to(torch.complex64) @ self.w if grad else x

    net = Turned()
    assert reached(net, ((torch.randn(2, 3),), {"grad": True})) == {id(net.w)}
    assert reached(net, ((torch.randn(2, 3),), {"grad": False})) == set()


def test_both_kinds_of_difference_are_named() -> None:
    net = Net()
    net.a.requires_grad_(False)
    call: Call = ((torch.randn(2, 3),), {})
    plan = normc.plan(net, call)
    assert differences(net, plan, call) == ((), ())
    assert compared(plan, {"b.weight", "apart.bias"}) == (("apart.bias",), ("zero", "b.bias"))
