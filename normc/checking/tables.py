"""A check as tables: one for each part, the reasons below it, and a last line that says it all."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from normc.checking.coordinates import Coordinates, Series
from normc.checking.gains import FACTOR, Gains
from normc.checking.onestep import BAND, OneStep
from normc.checking.slopes import GROWS
from normc.checking.verdict import STYLES, Verdict
from normc.report.words import number, shown

if TYPE_CHECKING:
    from normc.checking.report import CheckReport


def tables(report: CheckReport, width: int) -> Iterator[RenderableType]:
    """All parts of a report, in `width` columns."""
    yield Text.assemble(("check of ", "dim"), (shown(report.model), "bold"), (f", recipe {report.recipe}", "dim"))
    if report.gains is not None:
        yield from _section(*_gains(report.gains), width)
    if report.step is not None:
        yield from _section(*_step(report.step, report.lr), width)
    for part in (report.widths, report.depths):
        if part is not None:
            yield from _section(*_coordinates(part), width)
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


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim underline")
    for index, head in enumerate(heads):
        last = index == len(heads) - 1
        table.add_column(head, justify="left" if last or not index else "right", no_wrap=bool(index), overflow="fold")
    return table


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


def _gains(part: Gains) -> tuple[str, str, Table, list[Verdict]]:
    sharp = any(row.sharp is not None for row in part.rows)
    heads = ["parameter", "nominal", "measured", "ratio", "at init", "ratio", "at worst", "verdict"]
    if not sharp:
        heads.remove("at worst")
    table = _table(*heads)
    for row in part.rows:
        budget, initial = row.shown.ratios
        cells = [_number(row.shown.nominal), _number(row.shown.budget), _number(budget)]
        cells += [_number(row.shown.initial), _number(initial), *([_number(row.sharp)] if sharp else [])]
        table.add_row(_named(row.name, row.count), *cells, _said(row.verdict))
    lead = (
        "S R: RMS of the output's change for a unit step of the parameter (in its operator norm). Nominal: from the "
        "graph, weights on their norms' spheres; measured: there, and at init, by backward passes of random "
        f"projections of the output. !! beyond {FACTOR:g}x."
    )
    if any(row.count > 1 for row in part.rows):
        lead += " Of layers on one line, the one that is farthest off."
    return "Gains", lead, table, [_with_blockers(row.verdict, row.shown.name, part) for row in part.rows]


def _with_blockers(verdict: Verdict, name: str, part: Gains) -> Verdict:
    if verdict.word != "0 at init" or name not in part.blocked:
        return verdict
    from normc.report.families import pattern_of

    names = dict.fromkeys(pattern_of(other) for by in part.blocked.values() for other in by)
    return verdict._replace(why=f"{verdict.why} (zero: {', '.join(names)})")


def _step(part: OneStep, lr: float) -> tuple[str, str, Table, list[Verdict]]:
    table = _table("parameter", "promised", "at budget", "at init", "verdict")
    for row in part.rows:
        cells = (_number(row.promised), _number(row.budget), _number(row.initial))
        table.add_row(_named(row.name, row.count), *cells, _said(row.verdict))
    jointly = part.jointly
    cells = (_number(jointly.promised), _number(jointly.budget), _number(jointly.initial))
    table.add_row(Text("all together", style="bold"), *cells, _said(part.verdict), end_section=True)
    table.add_row(Text("  largest at one position"), "", _number(part.peak[1]), _number(part.peak[0]), "")
    lead = (
        f"RMS of the output's change over lr, of one step (lr {number(lr)}) of each parameter alone and of all. "
        f"Promised: S R target, which adds up. Accepted for all together: {BAND[0]:g} to {BAND[1]:g} of the promise"
        f"{'' if part.shares else ' (the lower end only where targets are shares of one budget)'}."
    )
    return "One step", lead, table, [*(row.verdict for row in part.rows), part.verdict]


def _coordinates(part: Coordinates) -> tuple[str, str, Table, list[Verdict]]:
    table = _table("activation", *(str(size) for size in part.sizes), "spread", "before", "after", "change", "verdict")
    for series in part.series:
        name = Text(shown(series.name), style="bold")
        values = [_number(value) for value in series.last]
        slopes = [_slope(series, index) for index in range(3)]
        table.add_row(name, *values, f"{series.spread:.2f}", *slopes, _said(series.verdict))
    lead = (
        f"RMS of every activation after {part.count} steps at lr {number(part.lr)}, by {part.along}; spread is largest "
        f"over smallest. Slopes of log2 RMS against log2 {part.along}: before the steps, after them, and of the change "
        f"that they made. Flat is within ±{GROWS:g}."
    )
    return f"Coordinate check over {part.along}", lead, table, [series.verdict for series in part.series]


def _slope(series: Series, index: int) -> str:
    value = series.slopes[index]
    return "–" if value is None or (series.kind == "step" and index != 1) else f"{value:+.2f}"
