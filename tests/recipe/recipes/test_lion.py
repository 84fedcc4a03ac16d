"""Lion and Signum against pytorch_optimizer's Lion over 50 steps: to the bit, as both are the same operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from normc.compiler import build
from tests.beside import apart, difference, fresh, rows_of, train
from tests.handmade import draft, plan_of

CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("lion", {}, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ("lion", {"cautious": True}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "cautious": True}),
    ("lion", {"decay": "independent"}, {"weight_decay": 1e-3}, {"weight_decay": 1e-3, "fixed_decay": True}),
    ("signum", {}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "betas": (0.9, 0.9)}),
]


@pytest.mark.parametrize(("recipe", "options", "values", "theirs"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lion_and_signum_equal_the_original(
    dtype: torch.dtype, recipe: str, options: dict[str, Any], values: dict[str, Any], theirs: dict[str, Any]
) -> None:
    lion = pytest.importorskip("pytorch_optimizer").Lion
    assert apart(dtype, recipe, lambda named: [lion(named.values(), 1e-3, **theirs)], 1e-3, options, values) == 0.0


def test_lion_with_equal_betas_is_signum_to_the_bit() -> None:
    models = [fresh(torch.float32) for _ in range(2)]
    own: list[dict[str, Any]] = [{"beta2": 0.9}, {}]
    for model, recipe, values in zip(models, ("lion", "signum"), own, strict=True):
        plan = plan_of(rows_of(model), recipe)
        train(model, [build(plan, model.named_parameters(), lr=1e-3, compile=False, **values)])
    assert difference(*models) == 0.0


def test_cautious_decay_shrinks_only_what_the_step_shrinks() -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 2.0, -2.0]))
    plan = plan_of([draft("w", (4,), "bias")], "lion", decay="cautious")
    w.grad = torch.tensor([1.0, 1.0, -1.0, -1.0])
    build(plan, [("w", w)], lr=0.1, weight_decay=0.5, compile=False).step()
    torch.testing.assert_close(w.detach(), torch.tensor([0.95 - 0.1, -1.0 - 0.1, 2.0 + 0.1, -1.9 + 0.1]))
