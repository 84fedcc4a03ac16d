"""A small model and its optimizer with narrow states: what the tests of bf16 and of codes share."""

from __future__ import annotations

import io
from typing import Any

import torch

from normc.compiler import build
from normc.optimizer import Optimizer
from tests.handmade import Small, plan_of, small_rows


def made(recipe: str = "adamw", dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Small, Optimizer]:
    """The same weights every time; `options` are those of `build`."""
    torch.manual_seed(0)
    model = Small().to(dtype)
    how: dict[str, Any] = {"lr": 5e-3, "compile": False, "backend": "cpu:fp32", **options}
    return model, build(plan_of(small_rows(model), recipe), model.named_parameters(), **how)


def reloaded(model: Small, opt: Optimizer, recipe: str, **options: Any) -> tuple[Small, Optimizer]:
    """Another such pair that went on from a file of this one, read with weights_only."""
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": opt.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, again = made(recipe, next(model.parameters()).dtype, **options)
    other.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    return other, again


def state_bytes(opt: torch.optim.Optimizer) -> int:
    """Of all states but counts."""
    values = [value for state in opt.state.values() for value in state.values()]
    return sum(value.numel() * value.element_size() for value in values if value.dim() > 0)
