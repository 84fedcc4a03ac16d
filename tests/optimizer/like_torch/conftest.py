"""Warnings that the tests here don't ask for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from normc.errors import NormcWarning


@pytest.fixture(autouse=True)
def quiet(updates_once: None) -> Iterator[None]:
    """scion-light says that its gradients outlive zero_grad(), and steps without gradients are told of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NormcWarning)
        yield
