"""A check as a plot: ratios of gains in their band, one step's shares, and RMS against width and depth."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from normc.errors import NormcError
from normc.tools.check.coordinates import Coordinates
from normc.tools.check.findings import Findings
from normc.tools.check.gains import FACTOR, Gains
from normc.tools.check.onestep import OneStep
from normc.tools.check.verdict import Level
from normc.tools.report.words import shown

_PALE, _STRONG = "#8a8f98", "#d1495b"
_COLORS: dict[Level, str] = {"ok": "#5b8e7d", "note": "#d9a441", "wrong": _STRONG}
_LEAST = 1e-4


def draw(report: Findings, path: Path) -> None:
    """One panel for each part, into `path`. NormcError without matplotlib, or where the file can't be written."""
    try:
        mpl = importlib.import_module("matplotlib")
    except ModuleNotFoundError:
        raise NormcError("a plot needs matplotlib", "pip install matplotlib") from None
    mpl.use("agg")
    plt = importlib.import_module("matplotlib.pyplot")
    panels: list[tuple[Any, Any]] = []
    if report.gains is not None:
        panels.append((_gains, report.gains))
    if report.step is not None:
        panels.append((_step, report.step))
    panels += [(_coordinates, part) for part in (report.widths, report.depths) if part is not None]
    if not panels:
        raise NormcError("there is nothing to draw", "see the report's notes")
    rows = max([len(report.gains.rows) if report.gains else 0, len(report.step.rows) if report.step else 0, 14])
    figure, grid = plt.subplots(
        1, len(panels), figsize=(6.2 * len(panels), 1.6 + 0.24 * rows), dpi=144, squeeze=False, layout="constrained"
    )
    for axes, (panel, part) in zip(grid[0], panels, strict=True):
        panel(axes, part)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{shown(report.model)}, recipe {report.recipe}")
    try:
        figure.savefig(path)
    except OSError as problem:
        raise NormcError(
            f"{path} can't be written: {problem.strerror}", "give a file in a folder that exists"
        ) from None
    finally:
        plt.close(figure)


def _labels(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [shown(name) for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")


def _gains(axes: Any, part: Gains) -> None:
    axes.axvspan(1 / FACTOR, FACTOR, color=_PALE, alpha=0.15, linewidth=0)
    axes.axvline(1, color=_PALE, linewidth=0.8)
    for place, row in enumerate(part.rows):
        budget, initial = row.shown.ratios
        if budget is None or initial is None:
            continue
        color = _COLORS[row.verdict.level]
        axes.plot(max(budget, _LEAST), place, "o", color=color, label="at the budget" if not place else None)
        axes.plot(
            max(initial, _LEAST),
            place,
            "o",
            color=color,
            fillstyle="none",
            label="as initialised" if not place else None,
        )
    _labels(axes, [row.name for row in part.rows])
    low, high = min(axes.get_xlim()[0], 0.1), max(axes.get_xlim()[1], 10)
    axes.set_xlim(low, high)
    ticks = [tick for tick in (_LEAST, 0.01, 0.1, 1 / FACTOR, 1, FACTOR, 10, 100) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel=f"measured / nominal (shaded: within {FACTOR:g}x; 0 is drawn at {_LEAST:g})", title="Gains")
    axes.legend(frameon=False, fontsize=8)


def _step(axes: Any, part: OneStep) -> None:
    rows = [(row.name, row.promised, row.budget, row.initial, row.verdict.level) for row in part.rows]
    whole = part.jointly
    rows.append((whole.name, whole.promised, whole.budget, whole.initial, part.verdict.level))
    for place, (_, promised, budget, initial, level) in enumerate(rows):
        if promised:
            axes.plot(promised, place, "|", color="black", markersize=11, label=None if place else "promised")
        for value, style, label in ((budget, "full", "at the budget"), (initial, "none", "as initialised")):
            if value > 0:
                axes.plot(value, place, "o", color=_COLORS[level], fillstyle=style, label=None if place else label)
    _labels(axes, [name for name, *_ in rows])
    axes.set(xlabel="RMS of the output's change / lr", title="One step, each alone and all together")
    axes.legend(frameon=False, fontsize=8)


def _coordinates(axes: Any, part: Coordinates) -> None:
    """Sizes as lines, pale where all is well; of what isn't, the change too, dashed."""
    marked = 0
    for series in part.series:
        if series.kind == "step" or not all(value > 0 for value in series.last):
            continue
        if series.verdict.level == "ok":
            axes.plot(part.sizes, series.last, "-", color=_PALE, linewidth=1)
            continue
        color, marked = f"C{marked % 10}", marked + 1
        label = f"{shown(series.name)}: {series.verdict.marked}"
        axes.plot(part.sizes, series.last, "-o", color=color, linewidth=1.8, markersize=3, label=label)
        axes.plot(part.sizes, series.moved, "--", color=color, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(part.sizes, [str(size) for size in part.sizes])
    title = f"Activations over {part.along}"
    axes.set(xlabel=part.along, ylabel=f"RMS after {part.count} steps (dashed: of the change)", title=title)
    if marked:
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
