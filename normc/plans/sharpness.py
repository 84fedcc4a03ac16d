"""How far the output bends under a step, as a plan says it."""

from __future__ import annotations

from typing import NamedTuple


class Sharpness(NamedTuple):
    """Bounds on a model's second derivatives, in its modular norm (Large et al., arXiv 2405.14813).

    alpha: by weights twice; beta: by weights and inputs; gamma: by inputs twice. A step at lr moves the output by at
    most lr + alpha lr^2 / 2. All are None where they aren't known, for the reason `missing`.
    """

    alpha: float | None
    beta: float | None
    gamma: float | None
    missing: str = ""

    @property
    def known(self) -> bool:
        """Whether there are bounds."""
        return self.alpha is not None


def unknown(missing: str) -> Sharpness:
    """No bounds, and why."""
    return Sharpness(None, None, None, missing)
