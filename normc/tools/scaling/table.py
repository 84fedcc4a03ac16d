"""A distribution as a table, as lines under a plan's, and as lines of an explanation."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from normc.plans.row import Row
from normc.tools.report import words
from normc.tools.report.families import families
from normc.tools.scaling.result import Placed, Result

_FEW = 4  # so many owners are named

Line = tuple[str, Text]


class Distribution(Result):
    """A plan's step on a mesh: rows, bytes, load, times. Prints as a table; `normc.distribution` makes it."""

    def text(self, width: int | None = None) -> str:
        """The table as text, by default as wide as the terminal."""
        return drawn(table(self), width)

    def footer(self, width: int | None = None) -> str:
        """Its last lines alone: schemes, bytes, load, predicted times, and what they assume."""
        return drawn(footer(self), width)

    def explained(self, row: Row) -> list[tuple[str, Text]]:
        """Lines for an explanation of a row."""
        return explained(self, row)

    def __str__(self) -> str:
        return self.text()


def table(found: Result) -> RenderableType:
    """A line for each family of layers that is stepped alike, and the sums."""
    head = ("parameter", "shape", "lies", "scheme", "owner", "in", "out", "TFLOP")
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim underline")
    for own_head in head:
        right = own_head in ("in", "out", "TFLOP")
        grid.add_column(own_head, justify="right" if right else "left", no_wrap=own_head != "owner")
    for family in families(found.plan.rows):
        own = [found.by_name[row.name] for row in family.rows]
        name = Text(words.shown(family.name), style="bold")
        if len(own) > 1:
            name.append(f" ×{len(own)}", style="bold yellow")
        sizes = [words.size(sum(getattr(row, side) for row in own)) for side in ("bytes_in", "bytes_out")]
        cells = (
            (*sizes, f"{sum(row.flops for row in own) / 1e12:.3g}")
            if any(row.flops or row.bytes_out for row in own)
            else ("", "", "")
        )
        schemes = ", ".join(dict.fromkeys(row.scheme for row in own))
        grid.add_row(
            name, words.shape(family.rows[0]), ", ".join(dict.fromkeys(row.placement for row in own)), schemes,
            _owners(own), *cells,
        )  # fmt: skip
    title = Text.assemble(("step of ", "dim"), (words.shown(found.plan.model), "bold"), (f" over {found.mesh}", "dim"))
    return Group(title, grid, footer(found))


def _owners(rows: Sequence[Placed]) -> str:
    owners = sorted({row.owner for row in rows if row.owner is not None})
    return ", ".join(map(str, owners)) if len(owners) <= _FEW else f"{len(owners)} ranks"


def footer(found: Result) -> Table:
    """Schemes, bytes, load, predicted times, and what they assume."""
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column()
    for head, text in lines(found):
        grid.add_row(head, text)
    return grid


def lines(found: Result) -> list[Line]:
    """The sums, a line each."""
    counted = ", ".join(f"{number} {name}" for name, number in found.schemes.items())
    mean = sum(found.sent) / found.mesh.ranks
    sent = f"{words.size(round(mean))} sent a rank, at most {words.size(max(found.sent))}; {found.calls} calls a step"
    windows = f" in {len(found.crossed)} windows" if len(found.crossed) > 1 else ""
    hidden = f"{_ms(found.exposed_ms)} for messages{windows}, which take {_ms(found.communication_ms)}"
    times = f"{_ms(found.ms)} a step: {_ms(found.compute_ms)} of work and {hidden}"
    share = f"{found.efficiency:.{0 if found.efficiency >= 0.1 else 1}%}"
    perfect = f"{_ms(found.alone_ms)} on one rank: {share} of perfect scaling"
    return [
        ("mesh", Text(f"{found.mesh}, {found.mesh.ranks:,} ranks")),
        ("schemes", Text(counted)),
        ("messages", Text(sent)),
        ("load", Text(f"{found.load:.3f} of the mean on the rank with most")),
        ("predicted", Text(f"{times}; {perfect}")),
        ("assumed", Text(str(found.rates))),
    ]


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 999.5 else f"{value:,.0f} ms"


def explained(found: Result, row: Row) -> list[Line]:
    """What an explanation says of a row's step over the ranks."""
    own = found.by_name[row.name]
    if own.scheme == "none":
        return [("ranks", Text(own.reason))]
    text = Text(f"{own.scheme}  because {own.reason}")
    said = [("lies", Text(f"{own.placement} on {found.mesh}")), ("scheme", text)]
    if own.owner is None:
        return said
    total = sum(each.cost for each in found.rows)
    number = f"rank {own.owner} of {found.mesh.ranks:,}, {words.size(own.bytes_in)} in, {words.size(own.bytes_out)} out"
    share = own.cost * found.mesh.ranks / total
    ms = own.flops / found.rates.flops * 1e3
    return [*said, ("owner", Text(f"{number}; {own.flops:,} operations, {_ms(ms)}: {share:.2f} of a rank's share"))]


def drawn(shown: RenderableType, width: int | None = None) -> str:
    """A table as text, by default as wide as the terminal."""
    console = Console(width=width, highlight=False, no_color=True)
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))
