"""A check as tables: one for each part, the reasons below it, and a last line that says it all."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from normc.tools.check.coordinates import Coordinates, Series
from normc.tools.check.findings import Findings
from normc.tools.check.gains import FACTOR, Gains
from normc.tools.check.onestep import BAND, OneStep
from normc.tools.check.slopes import GROWS, SURELY
from normc.tools.check.verdict import STYLES, Verdict
from normc.tools.report.families import pattern_of
from normc.tools.report.words import number, shown

_NARROW = 100  # columns below which gains are shown as ratios alone


def tables(report: Findings, width: int) -> Iterator[RenderableType]:
    """All parts of a report, in `width` columns."""
    yield Text.assemble(("check of ", "dim"), (shown(report.model), "bold"), (f", recipe {report.recipe}", "dim"))
    if report.gains is not None:
        yield from _section(*_gains(report.gains, width), width)
    if report.step is not None:
        yield from _section(*_step(report.step, report.lr, width), width)
    for part in (report.widths, report.depths):
        if part is not None:
            yield from _section(*_coordinates(part, width), width)
    for note in report.notes:
        yield from _wrapped(f"note: {note}", width, "yellow")
    wrong = sum(verdict.level == "wrong" for verdict in report.verdicts)
    yield Text()
    if wrong:
        yield Text(f"{wrong} of {len(report.verdicts)} lines are marked !!", style=STYLES["wrong"])
    else:
        yield Text(f"no line of {len(report.verdicts)} is marked !!", style=STYLES["ok"])


def _section(title: str, lead: str, table: Table, verdicts: Iterable[Verdict], width: int) -> Iterator[RenderableType]:
    yield Text()
    yield Text(title, style="bold")
    yield from _wrapped(lead, width, "dim")
    yield table
    for verdict in dict.fromkeys(verdict for verdict in verdicts if verdict.why):
        yield from _wrapped(f"{verdict.marked}: {shown(verdict.why)}", width, STYLES[verdict.level])


def _wrapped(text: str, width: int, style: str) -> Iterator[Text]:
    for line in textwrap.wrap(text, min(width, 120) - 2, subsequent_indent="  "):
        yield Text(line, style=style)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str | Text]], width: int) -> Table:
    """Names left, numbers right, the verdict left; names break at their dots where the table would be too wide."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in line] for line in lines]
    others = sum(
        max(cell_len(head), *(cell_len(line[place].plain) for line in cells)) + 2
        for place, head in enumerate(heads) if place
    )  # fmt: skip
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim underline")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if 0 < place < len(heads) - 1 else "left", no_wrap=True)
    for line in cells:
        table.add_row(_broken(line[0], max(width - others - 2, 12)), *line[1:])
    return table


def _broken(name: Text, room: int) -> Text:
    """A name on as many lines as it needs, indented from the second on."""
    lines, start, end = Text(), 0, 0
    for piece in re.findall(r"[^. ]*[. ]?", name.plain):
        if end > start and cell_len(name.plain[start : end + len(piece)].rstrip()) > room - (2 if start else 0):
            lines.append_text(name[start:end]).append("\n  ")
            start = end
        end += len(piece)
    return lines.append_text(name[start:])


def _named(name: str, count: int) -> Text:
    text = Text(shown(name), style="bold")
    return text.append(f" ×{count}", style="bold yellow") if count > 1 else text


def _said(verdict: Verdict) -> Text:
    return Text(verdict.marked, style=STYLES[verdict.level])


def _number(value: float | None) -> str:
    """Three digits; a dash for what isn't known."""
    if value is None:
        return "–"
    return "0" if abs(value) < 1e-12 else f"{value:.3g}" if abs(value) < 1e5 else f"{value:.1e}"


def _gains(part: Gains, width: int) -> tuple[str, str, Table, list[Verdict]]:
    sharp = any(row.sharp is not None for row in part.rows)
    narrow = width < _NARROW
    heads = [
        "parameter",
        "nominal",
        *(["measured", "at init"] if narrow else ["measured", "ratio", "at init", "ratio"]),
    ]
    heads += [*(["at worst"] if sharp else []), "verdict"]
    lines: list[Sequence[str | Text]] = []
    for row in part.rows:
        budget, initial = row.shown.ratios
        cells = [_number(row.shown.nominal)]
        for value, ratio in ((row.shown.budget, budget), (row.shown.initial, initial)):
            cells += [f"{_number(ratio)}x"] if narrow else [_number(value), _number(ratio)]
        cells += [_number(row.sharp)] if sharp else []
        lines.append((_named(row.name, row.count), *cells, _said(row.verdict)))
    lead = (
        "S R: RMS of the output's change for a unit step of the parameter (in its operator norm). Nominal: from the "
        "graph; measured: by backward passes of random projections of the output, for weights that keep the RMS of "
        f"random input, as nominal gains have it, and for the initial ones. !! where the former are beyond {FACTOR:g}x."
    )
    if any(row.count > 1 for row in part.rows):
        lead += " Of layers on one line, the one that is farthest off."
    if narrow:
        lead += " Measured gains are in multiples of the nominal one."
    return (
        "Gains",
        lead,
        _table(heads, lines, width),
        [_with_blockers(row.verdict, row.shown.name, part) for row in part.rows],
    )


def _with_blockers(verdict: Verdict, name: str, part: Gains) -> Verdict:
    if verdict.word != "0 at init" or name not in part.blocked:
        return verdict
    names = dict.fromkeys(pattern_of(other) for by in part.blocked.values() for other in by)
    return verdict._replace(why=f"{verdict.why} (zero: {', '.join(names)})")


def _step(part: OneStep, lr: float, width: int) -> tuple[str, str, Table, list[Verdict]]:
    heads = ("parameter", "promised", "at budget", "at init", "verdict")
    lines: list[Sequence[str | Text]] = []
    for row in part.rows:
        cells = (_number(row.promised), _number(row.budget), _number(row.initial))
        lines.append((_named(row.name, row.count), *cells, _said(row.verdict)))
    jointly = part.jointly
    cells = (_number(jointly.promised), _number(jointly.budget), _number(jointly.initial))
    lines.append((Text("all together", style="bold"), *cells, _said(part.verdict)))
    lines.append(("largest at one position", "", _number(part.peak[1]), _number(part.peak[0]), ""))
    lead = (
        f"RMS of the output's change over lr, of one step (lr {number(lr)}) of each parameter alone and of all, from "
        "weights on their norms' spheres (the budget) and from the initial ones. Promised: S R target, which adds up. "
        f"Accepted for all together: {BAND[0]:g} to {BAND[1]:g} of the promise"
        f"{'' if part.shares else ' (the lower end only where targets are shares of one budget)'}."
    )
    return "One step", lead, _table(heads, lines, width), [*(row.verdict for row in part.rows), part.verdict]


def _coordinates(part: Coordinates, width: int) -> tuple[str, str, Table, list[Verdict]]:
    sizes = [str(size) for size in part.sizes]
    heads = ("activation", *sizes, "spread", "before", "after", "change", "verdict")
    lines: list[Sequence[str | Text]] = []
    for series in part.series:
        name = Text(shown(series.name), style="bold")
        values = [_number(value) for value in series.last]
        slopes = [_slope(series, index) for index in range(3)]
        lines.append((name, *values, f"{series.spread:.2f}", *slopes, _said(series.verdict)))
    lead = (
        f"RMS of every activation after {part.count} steps at lr {number(part.lr)}, by {part.along}; spread is largest "
        f"over smallest. Slopes of log2 RMS against log2 {part.along}: before the steps, after them, and of the change "
        f"that they made. Flat is within ±{GROWS:g}; !! beyond ±{SURELY:g}."
        + (" What levels off counts by what its last doublings foretell." if part.along == "depth" else "")
    )
    return (
        f"Coordinate check over {part.along}",
        lead,
        _table(heads, lines, width),
        [series.verdict for series in part.series],
    )


def _slope(series: Series, index: int) -> str:
    value = series.slopes[index]
    return "–" if value is None or (series.kind == "step" and index != 1) else f"{value:+.2f}"
