"""The result of a check: prints as tables with their reasons, saves as JSON, draws as a plot."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult

from normc.errors import NormcError
from normc.tools.check.coordinates import Coordinates, Series
from normc.tools.check.findings import Findings
from normc.tools.check.gains import Gain
from normc.tools.check.onestep import Move, OneStep
from normc.tools.check.plot import draw
from normc.tools.check.tables import tables
from normc.tools.check.verdict import Verdict

VERSION = 1


class CheckReport(Findings):
    """What `normc.check` found: prints as tables, saves as JSON, draws as a plot."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from tables(self, options.max_width)

    def text(self, width: int | None = None, color: bool = False) -> str:
        """The tables as text, by default as wide as the terminal."""
        console = Console(width=width, force_terminal=color, no_color=None if color else True, highlight=False)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))

    def __str__(self) -> str:
        return self.text(color=sys.stdout is not None and sys.stdout.isatty())

    def to_json(self) -> str:
        """Every number of every parameter and activation; what isn't finite or known is null."""
        document = {
            "format": "normc check",
            "version": VERSION,
            "model": self.model,
            "recipe": self.recipe,
            "verdict": _verdict(self.verdict),
            "gains": [_gain(gain) for gain in self.gains.of] if self.gains is not None else None,
            "sharp": {row.shown.name: _finite(row.sharp) for row in self.gains.rows}
            if self.gains is not None
            else None,
            "one_step": _step(self.step, self.lr) if self.step is not None else None,
            "widths": _coordinates(self.widths) if self.widths is not None else None,
            "depths": _coordinates(self.depths) if self.depths is not None else None,
            "notes": list(self.notes),
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    def plot(self, path: str | Path) -> None:
        """Draw all parts into one file; its ending (png, svg) says the format. NormcError without matplotlib."""
        if Path(path).suffix.lower() not in (".png", ".svg"):
            raise NormcError(f"{path} is no plot's name", "end it in .png or .svg")
        draw(self, Path(path))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _verdict(verdict: Verdict) -> dict[str, str]:
    return {"level": verdict.level, "word": verdict.word, "why": verdict.why}


def _gain(gain: Gain) -> dict[str, object]:
    return {
        "name": gain.name,
        "role": gain.role,
        "nominal": _finite(gain.nominal),
        "budget": _finite(gain.budget),
        "initial": _finite(gain.initial),
        "verdict": _verdict(gain.verdict),
    }


def _move(move: Move) -> dict[str, object]:
    return {
        "name": move.name,
        "promised": _finite(move.promised),
        "initial": _finite(move.initial),
        "budget": _finite(move.budget),
    }


def _step(step: OneStep, lr: float) -> dict[str, object]:
    peaks = {"initial": _finite(step.peak[0]), "budget": _finite(step.peak[1])}
    alone = [_move(move) for move in step.of]
    return {
        "lr": lr,
        "alone": alone,
        "jointly": {**_move(step.jointly), "peak": peaks},
        "verdict": _verdict(step.verdict),
    }


def _coordinates(part: Coordinates) -> dict[str, object]:
    return {
        "along": part.along,
        "sizes": list(part.sizes),
        "steps": part.count,
        "lr": part.lr,
        "activations": [dict(_series(series)) for series in part.series],
    }


def _series(series: Series) -> Iterator[tuple[str, object]]:
    yield "name", series.name
    yield "kind", series.kind
    yield "rms", [[_finite(value) for value in step] for step in series.steps]
    yield "moved", [_finite(value) for value in series.moved]
    yield "spread", _finite(series.spread)
    yield "slopes", dict(zip(("before", "after", "change"), map(_finite, series.slopes), strict=True))
    yield "verdict", _verdict(series.verdict)
