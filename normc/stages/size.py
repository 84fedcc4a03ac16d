"""Scales: how large a step is, for directions that no norm has sized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from normc.stages.build import Builder, Space, Stage, scaled


class Size(Stage):
    """What sets a step's size, and by that makes a step of a gradient."""

    gives: ClassVar[Space | None] = "primal"
    kind: ClassVar[str] = "scale"


@dataclass(frozen=True, slots=True)
class Radius(Size):
    """The direction times the row's scale: for rules that are no norm's."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- scale d."""
        return scaled(build, direction, build.row.scale.value)
