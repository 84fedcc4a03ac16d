"""A rule of the user's own: an op that normc doesn't know is a fallback, and one function in one file mends it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.model.ops.call import Call, Result, rule
from normc.model.ops.value import Value


def _define(name: str) -> None:
    """A custom op: x [..., d_in], weight [d_in, d_out] -> [..., d_out]."""
    torch.library.define(f"normc_test::{name}", "(Tensor x, Tensor weight) -> Tensor")
    torch.library.impl(f"normc_test::{name}", "CompositeExplicitAutograd")(lambda x, w: (x @ w).sigmoid())
    torch.library.register_fake(f"normc_test::{name}")(lambda x, w: x.new_empty(*x.shape[:-1], w.shape[1]))


_define("known_to_nobody")
_define("known_to_the_user")


@rule("normc_test.known_to_the_user")
def known_to_the_user(call: Call) -> Result:
    x, weight = call.data(call["x"], 0), call.value(call["weight"])
    call.meet(weight, ["in", "out"], "contract", call["x"])
    return Value("data", (*x.dims[:-1], weight.dims[1]), touched=True)


class Net(nn.Module):
    """A layer made of a custom op, between two that everyone knows."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(12, 2)
        self.weight = nn.Parameter(torch.randn(8, 12))
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(getattr(torch.ops.normc_test, self.op)(self.stem(x), self.weight))
        return out


def test_without_a_rule_the_row_says_so_and_strict_refuses() -> None:
    plan = normc.plan(Net("known_to_nobody"), torch.randn(4, 3))
    row = plan["weight"]
    assert row.fallback is not None and "normc_test.known_to_nobody" in row.fallback
    assert row.norm == "sign" and not row.in_axes and not row.out_axes
    assert [r.name for r in plan.rows if r.fallback] == ["weight"]
    footer = plan.text(width=100).rsplit("fallbacks", 1)[1]
    assert "1" in footer and "weight" in footer
    with pytest.raises(normc.NormcError, match=r"weight: no rule for normc_test\.known_to_nobody"):
        normc.plan(Net("known_to_nobody"), torch.randn(4, 3), strict=True)


def test_one_function_gives_the_op_its_place_in_the_plan() -> None:
    row = normc.plan(Net("known_to_the_user"), torch.randn(4, 3), strict=True)["weight"]
    assert (row.role, row.norm, row.fan_in, row.fan_out) == ("hidden", "spectral", 8, 12)
    assert (row.in_axes, row.out_axes) == ((0,), (1,))
