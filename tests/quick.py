"""What a quick run of the tests leaves to the slow one: most of a registry, where some members stand for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def others_slow(values: Iterable[Any], quick: Iterable[Any]) -> Sequence[Any]:
    """The values to parametrise a test by; those that aren't in `quick` are marked slow."""
    kept = set(quick)
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in values]
