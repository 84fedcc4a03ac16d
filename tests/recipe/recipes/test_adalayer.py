"""Adalayer: each block's one average, the last layer's rows, and squares that are frozen, against a plain loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import normc
from normc.errors import NormcError
from normc.recipe.by_name import recipes
from tests.recipe.recipes.test_adam import Loop
from tests.recipe.recipes.tiny import difference, made, ours, tokens

DTYPES = [pytest.param(torch.float32, 2e-5, marks=pytest.mark.slow), (torch.float64, 1e-12)]
VALUES: dict[str, Any] = {"weight_decay": 0.1, "eps": 1e-10}
HEAD, FUSED, TABLE = (17, 16), (48, 16), (17, 16)


class Reference(Loop):
    """Theory, D1. `head` and `table` have an average a row, fused matrices three."""

    def __init__(self, model: Any, frozen: int, head: bool, table: bool) -> None:
        super().__init__(model, lambda w, g, state, t: w)
        self.frozen = frozen
        self.names = [name for name, _ in model.named_parameters()]
        self.rows = [name for name, on in (("head.weight", head), ("tok.weight", table)) if on]

    def step(self) -> None:
        """One step of all."""
        self.times += 1
        for name, parameter, state in zip(self.names, self.parameters, self.states, strict=True):
            assert parameter.grad is not None
            parameter.data = self.stepped(name, parameter.data, parameter.grad, state, self.times)

    def stepped(self, name: str, w: Tensor, g: Tensor, state: dict[str, Tensor], t: int) -> Tensor:
        """One parameter's."""
        m = state["m"] = 0.9 * state.get("m", torch.zeros_like(g)) + 0.1 * g
        if name in self.rows:
            mean = g.square().mean(1, keepdim=True)
        elif "qkv" in name:
            mean = torch.cat([part.square().mean().expand(16, 1) for part in g.chunk(3)])
        else:
            mean = g.square().mean()
        beta2, bias = 0.95, 1 - 0.95**t
        if self.frozen:
            beta2, bias = 1 - 1 / (t + 1), 1.0
            if t > self.frozen:
                beta2 = 0.95 if name in self.rows else 1.0
        v = state["v"] = beta2 * state.get("v", torch.zeros_like(mean)) + (1 - beta2) * mean
        return w * (1 - 2e-3 * 0.1) - 2e-3 / (1 - 0.9**t) * m / (v.sqrt() / bias**0.5 + 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("frozen", [0, 20])
@pytest.mark.parametrize(("recipe", "table"), [("adalayer", False), ("adalayer-star", False), ("adalayer-star", True)])
def test_fifty_steps_have_their_closed_form(
    recipe: str, table: bool, frozen: int, dtype: torch.dtype, tolerance: float
) -> None:
    options = {"frozen_after": frozen, "embedding_rows": table}
    apart, moved = difference(
        made(dtype, fused=True),
        lambda model: ours(model, recipe, 2e-3, options, **VALUES),
        lambda model: Reference(model, frozen, recipe == "adalayer-star", table),
    )
    assert apart < tolerance
    assert moved > 1e-3


def test_its_state_is_one_number_a_block_or_row() -> None:
    plan = normc.plan(made(fused=True), (tokens(0)[:, :-1],), recipe="adalayer-star")
    extra = {row.name: (row.state_bytes - 4 * row.numel) // 4 - 1 for row in plan}
    assert (extra["attention.0.qkv.weight"], extra["up.0.weight"], extra["last.weight"]) == (3, 1, 1)
    assert (extra["head.weight"], extra["tok.weight"]) == (17, 1)


def test_a_part_of_a_step_is_refused() -> None:
    with pytest.raises(NormcError, match="whole number"):
        recipes["adalayer"].configure(frozen_after=0.5).stages("block")
