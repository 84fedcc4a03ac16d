"""Ops that nobody has written a rule for: tried out where they can be run, else unknown; never silently 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.plans.plan import NormPlan

SCALE = 5.0


@pytest.fixture(scope="module", autouse=True)
def ops() -> Iterator[None]:
    """normc_gains::scaled runs, ::picked takes places from the inputs, ::nowhere has a shape and no kernel."""
    library = torch.library.Library("normc_gains", "DEF")
    library.define("scaled(Tensor x) -> Tensor")
    library.define("picked(Tensor x, Tensor places) -> Tensor")
    library.define("nowhere(Tensor x) -> Tensor")
    library.impl("scaled", lambda x: SCALE * x, "CPU")
    library.impl("picked", lambda x, places: SCALE * x[places], "CPU")
    for name in ("scaled", "picked", "nowhere"):
        library.impl(name, lambda x, *_: torch.empty_like(x), "Meta")
        torch.library.register_fake(f"normc_gains::{name}", lambda x, *_: torch.empty_like(x), lib=library)
        torch.library.register_autograd(
            f"normc_gains::{name}", lambda ctx, grad: (grad, None) if ctx.two else grad, lib=library,
            setup_context=lambda ctx, inputs, output: setattr(ctx, "two", len(inputs) == 2),
        )  # fmt: skip
    yield
    library._destroy()


class Through(nn.Module):
    """A layer, an op, two layers."""

    def __init__(self, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.op = op
        self.before, self.after = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """x: [batch, 16]."""
        out: Tensor = self.head(self.after(self.op(self.before(x), *more)))
        return out


def plan(name: str, *inputs: Tensor) -> NormPlan:
    """Of a model with that op."""
    return normc.plan(Through(getattr(torch.ops.normc_gains, name)), inputs, recipe="modular-dual")


X = torch.randn(64, 16)
PLACES = torch.arange(64).flip(0)


@pytest.mark.parametrize(("name", "more"), [("scaled", ()), ("picked", (PLACES,))])
def test_what_can_be_run_is_tried_out(name: str, more: tuple[Tensor, ...]) -> None:
    found = plan(name, X, *more)
    assert found["before.weight"].sensitivity == pytest.approx(SCALE, rel=0.1)
    assert found["after.weight"].magnitude == pytest.approx(SCALE, rel=0.1)
    assert any(f"normc_gains.{name}" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("nowhere", (X,)), ("picked", (X.to("meta"), PLACES.to("meta")))],
    ids=["no kernel", "no example values"],
)
def test_what_cannot_is_unknown_before_it_and_behind_it(name: str, inputs: tuple[Tensor, ...]) -> None:
    model = Through(getattr(torch.ops.normc_gains, name))
    model = model.to("meta") if inputs[0].is_meta else model
    found = normc.plan(model, inputs, recipe="modular-dual")
    assert found["before.weight"].sensitivity is None
    assert found["after.weight"].magnitude is None
    for row in ("before.weight", "after.weight"):
        claims = [e for e in found[row].evidence if e.fact == "sensitivity"]
        assert claims[0].claim == "unknown" and name in claims[0].reason
    assert set(found.certificate().assumed) >= {"before.weight", "after.weight"}
