"""What a measurement found: prints as a table, saves as JSON, draws as a plot."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from normc.errors import NormcError
from normc.tools.cbs.law import Law, fit
from normc.tools.cbs.plot import draw
from normc.tools.report.words import number


@dataclass(frozen=True, slots=True)
class Point:
    """One batch size: the fewest steps, with their learning rate and decay. None, and the lowest loss, if none did."""

    batch: int
    steps: int | None
    lr: float
    decay: float
    loss: float


@dataclass(frozen=True)
class Measurement:
    """What `normc.cbs.measure` found, by batch size. `lrs` are those that were tried."""

    target: float
    limit: int
    lrs: tuple[float, ...]
    points: tuple[Point, ...]

    def fit(self, alpha: float | None = 1.0, optimal: float | None = None, overhead: float = 0.2) -> Law:
        """The law of the batch sizes that reached the target: `normc.cbs.fit`."""
        reached = [(point.batch, point.steps) for point in self.points if point.steps is not None]
        return fit(
            [batch for batch, _ in reached], [steps for _, steps in reached],
            alpha=alpha, optimal=optimal, overhead=overhead,
        )  # fmt: skip

    def table(self, law: Law | None = None) -> Table:
        """A line for each batch size: measured, and by the law (with alpha 1 unless another is given)."""
        law = law or self.fit()
        shown = Table("batch", "steps", "examples", "lr", "decay", "law", "off by", "work", box=None, pad_edge=False)
        for column in shown.columns:
            column.justify = "right"
        for point in self.points:
            ends = len(self.lrs) > 2 and point.lr in (self.lrs[0], self.lrs[-1])
            lr = Text(number(point.lr) + ("!" if ends else ""), style="yellow" if ends else "")
            by_law = law.predict(point.batch)
            work = f"{law.examples(point.batch) / law.examples(law.optimal):.2f}x"
            if point.steps is None:
                lowest = f"lowest {number(point.loss)}"
                shown.add_row(str(point.batch), f"over {self.limit}", lowest, lr, "", f"{by_law:.0f}", "", work)
                continue
            shown.add_row(
                str(point.batch), str(point.steps), str(point.batch * point.steps), lr, number(point.decay),
                f"{by_law:.0f}", f"{100 * (point.steps / by_law - 1):+.1f} %", work,
            )  # fmt: skip
        return shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        law = self.fit()
        yield Text(f"steps to a loss of {number(self.target)}, of averaged weights at constant learning rates")
        yield self.table(law)
        yield Text(said(law))
        if any(len(self.lrs) > 2 and point.lr in (self.lrs[0], self.lrs[-1]) for point in self.points):
            yield Text("! the smallest or largest learning rate that was tried: others may do better", style="yellow")

    def text(self, width: int | None = None, color: bool = False) -> str:
        """The table as text, by default as wide as the terminal."""
        console = Console(width=width, force_terminal=color, no_color=None if color else True, highlight=False)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))

    def __str__(self) -> str:
        return self.text(color=sys.stdout is not None and sys.stdout.isatty())

    def to_json(self) -> str:
        """Every number, the law's among them; what isn't finite is null."""
        law = self.fit()
        document = {
            "format": "normc cbs", "version": 1, "target": self.target, "limit": self.limit, "lrs": list(self.lrs),
            "points": [{name: _finite(value) for name, value in asdict(point).items()} for point in self.points],
            "law": {"a": law.a, "b": law.b, "alpha": law.alpha, "optimal": law.optimal, "overhead": law.overhead,
                    "critical": _finite(law.critical), "residuals": list(law.residuals)},
        }  # fmt: skip
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    def plot(self, path: str | Path, law: Law | None = None) -> None:
        """Steps against batch sizes; the name's ending (png, svg) says the format. NormcError without matplotlib."""
        if Path(path).suffix.lower() not in (".png", ".svg"):
            raise NormcError(f"{path} is no plot's name", "end it in .png or .svg")
        draw([point.batch for point in self.points], self.target, law or self.fit(), Path(path))


def said(law: Law) -> str:
    """A law in words: its formula, its batch sizes, and how sure they are."""
    power = "" if law.alpha == 1 else f"^{number(law.alpha)}"
    more = f"where {number(law.overhead * 100)} % more examples are needed"
    lines = [
        f"steps = {number(law.a)} + {number(law.b)} / B{power}",
        f"optimal {number(law.optimal)}; critical {_size(law.critical)}, {more}",
    ]
    if len(set(law.batches)) > 3:
        low, high = law.without_one()
        lines.append(f"critical without one of the batch sizes: {_size(low)} to {_size(high)}")
    if law.extrapolated:
        lines.append(f"that is beyond {number(max(law.batches))}, the largest batch size that was measured")
    return "\n".join(lines)


def _size(batch: float) -> str:
    return "none" if batch == math.inf else f"{batch:.0f}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
