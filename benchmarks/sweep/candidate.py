"""What a sweep tries: one way of building one architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn


class Candidate(NamedTuple):
    """`build` makes the model anew; `size` says which configuration it has: small, shallow or default."""

    size: str
    build: Callable[[], nn.Module]
