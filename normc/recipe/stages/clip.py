"""Clipping: a step that is too long becomes shorter, and keeps its direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from normc.errors import NormcError
from normc.recipe.stages.build import Builder, Stage
from normc.recipe.stages.precondition import View
from normc.recipe.stages.statistics import wholes
from normc.update.ops import relative


@dataclass(frozen=True, slots=True)
class ClipRms(Stage):
    """A direction's root mean square is at most `threshold`: Adafactor's clipping.

    Each block's matrix by itself, or if not `apart` the tensor.
    """

    kind: ClassVar[str] = "clip"

    threshold: float = 1.0
    apart: bool = True

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- d / max(1, rms(d) / threshold)."""
        if not self.threshold > 0:
            raise NormcError(f"steps can't be clipped to a size of {self.threshold}", "give a positive number")
        for view in wholes(build.row, self.apart):
            own = viewed(view)
            direction = build.call("d", relative.clip_rms, direction, threshold=self.threshold, **own)
        return direction


def viewed(view: View) -> dict[str, Any]:
    """A view as an op's argument, if there is anything to say."""
    return {"view": view} if view else {}
