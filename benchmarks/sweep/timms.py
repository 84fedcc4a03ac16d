"""The models of timm, at their default size."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.sweep.candidate import Candidate
from benchmarks.sweep.vision import importable_torchvision


@functools.cache
def _library() -> Any:
    importable_torchvision()
    return importlib.import_module("timm")


def version() -> str:
    """The version of timm."""
    return str(_library().__version__)


def names() -> list[str]:
    """Every model's name; one of each module before a second one of any."""
    timm = _library()
    ranked: list[tuple[int, str]] = []
    for module in sorted(timm.list_modules()):
        ranked += enumerate(sorted(timm.list_models(module=module)))
    return list(dict.fromkeys(name for _, name in sorted(ranked, key=lambda item: item[0])))


def candidates(name: str) -> Iterator[Candidate]:
    """The one way of building it."""

    def build() -> nn.Module:
        model: nn.Module = _library().create_model(name, pretrained=False)
        return model

    yield Candidate("default", build)
