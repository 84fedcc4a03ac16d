"""SGD against torch's own, flag by flag, over 50 steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from normc.errors import NormcError
from normc.recipe.by_name import recipes
from tests.beside import apart
from tests.handmade import draft, plan_of

FLAGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"momentum": 0.9, "weight_decay": 0.01}),
    ({"nesterov": True}, {"momentum": 0.9, "weight_decay": 0.01}),
    ({"dampening": 0.3}, {"momentum": 0.9, "weight_decay": 0.01}),
    ({"plain": True}, {"momentum": 0.0, "weight_decay": 0.01}),
    ({}, {"momentum": 0.0, "weight_decay": 0.0}),
]


@pytest.mark.parametrize(("options", "values"), FLAGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_sgd_equals_torch(
    dtype: torch.dtype, tolerance: float, options: dict[str, Any], values: dict[str, Any]
) -> None:
    flags = {key: value for key, value in options.items() if key != "plain"}
    assert apart(dtype, "sgd", lambda named: [torch.optim.SGD(named.values(), 0.05, **values, **flags)], 0.05, options,
                 values) <= tolerance  # fmt: skip


def test_state_and_mistakes() -> None:
    (row,) = plan_of([draft("w", (8, 4), "hidden")], "sgd", plain=True).rows
    assert row.state_bytes == 0
    (row,) = plan_of([draft("w", (8, 4), "hidden")], "sgd").rows
    assert row.state_bytes == 4 * 32
    for options in ({"nesterov": True, "dampening": 0.1}, {"plain": True, "nesterov": True}):
        with pytest.raises(NormcError, match="sgd can have one"):
            recipes["sgd"].configure(**options).stages("sgd")
