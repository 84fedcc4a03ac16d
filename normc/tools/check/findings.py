"""What a check found, as data: what its tables and its plot are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from normc.tools.check.coordinates import Coordinates
from normc.tools.check.gains import Gains
from normc.tools.check.onestep import OneStep
from normc.tools.check.verdict import OK, Verdict, worst


@dataclass(frozen=True)
class Findings:
    """What a check found, as data. `gains` and `step` are of the model itself; `widths` and `depths` of its relatives.

    `notes` say what could not be checked.
    """

    model: str
    recipe: str
    lr: float
    gains: Gains | None
    step: OneStep | None
    widths: Coordinates | None
    depths: Coordinates | None
    notes: tuple[str, ...] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All of them, in the order of the tables."""
        found = [row.verdict for row in self.gains.rows] if self.gains is not None else []
        if self.step is not None:
            found += [*(row.verdict for row in self.step.rows), self.step.verdict]
        for part in (self.widths, self.depths):
            found += [series.verdict for series in part.series] if part is not None else []
        return tuple(found)

    @property
    def verdict(self) -> Verdict:
        """The most serious of all verdicts."""
        return worst(list(self.verdicts)) if self.verdicts else OK

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; notes may be there."""
        return self.verdict.level != "wrong"
