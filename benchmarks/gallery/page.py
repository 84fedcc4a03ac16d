"""The pages: for each entry its plan and what the usual rules would do to it, and one table of all."""

from __future__ import annotations

from collections.abc import Iterable, Set
from fnmatch import fnmatchcase
from io import StringIO
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

import normc
from benchmarks.gallery.entry import Entry
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.tools.report import words
from normc.tools.report.against import faults, heuristics
from normc.tools.report.families import Family, families, pattern_of
from normc.tools.report.folding import folded
from normc.tools.report.table import lines_of
from tests.zoo.test_zoo import wrong_rows

WIDTH = 140
_WHOLE = 20  # lines of a table up to which a page shows all of it
_NAME = 42  # columns for a name in what rules get wrong
_MOST = 10  # lines of what rules get wrong that a page has room for
_RULES = """`muon-ndim` takes every tensor of two axes or more; `muon-names` leaves out names with embed, head, wte or
wpe; `torch-example` takes what has exactly two axes; `timm` and `deepspeed` are the tests of those libraries
([against.py](../../normc/tools/report/against.py))."""


Wrong = tuple[str, str, tuple[str, ...]]  # a family of rows, what is wrong with it, and with which rules


class Page(NamedTuple):
    """An entry's page, and its line of the index."""

    text: str
    line: str


def planned(name: str, entry: Entry) -> NormPlan:
    """The entry's plan. NormcError where a row isn't what was written by hand."""
    plan = normc.plan(entry.case.build(), entry.case.inputs(), recipe="muon", heads=entry.heads)
    wrong = wrong_rows(entry.case, plan)
    names = [row.name for row in plan.rows]
    wrong += [f"{key}: no parameter meets it" for key in (*entry.case.expect, *entry.rows) if not _meets(names, key)]
    if wrong:
        problem = f"the plan of {name} isn't what was written by hand:\n    " + "\n    ".join(wrong)
        raise normc.NormcError(problem, "read the model's source, then mend the pass or the expectation")
    return plan


def _meets(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def page(name: str, entry: Entry, plan: NormPlan) -> Page:
    """What docs/gallery/<name>.md holds, and what its index says of it."""
    found, wrong = families(plan.rows), wrongs(plan)
    asked = [family for family in found if any(_meets([row.name], key) for row in family.rows for key in entry.rows)]
    whole = folded(found)
    mine = {_label(family) for family in asked}
    listed = _first(wrong, mine)
    blamed = {label for label, _, _ in listed}
    shown = whole if len(whole) <= _WHOLE else [one for one in found if one in asked or _label(one) in blamed]
    inferred = plan.coverage
    note = f"{inferred.tensors} of {inferred.all_tensors} tensors inferred"
    note += f"; {len(shown)} of {len(found)} lines, those that matter here" if shown is not whole else ""
    parts = [
        f"# {entry.title}",
        entry.says,
        f"The model: {entry.built}.",
        "## What users reported",
        "\n".join(f"- {report.link}: {report.found}" for report in entry.reports),
        "## The plan",
        f"`normc.plan(model, inputs, recipe='muon'{', heads=True' if entry.heads else ''})`: {note}.",
        f"```\n{_text(lines_of(shown, WIDTH))}\n```",
        "## What the usual rules get wrong",
        _shares(plan),
        f"```\n{_text(_table(listed))}{_more(len(wrong) - len(listed))}\n```",
        _RULES,
    ]
    links = ", ".join(report.link for report in entry.reports)
    inference = "; ".join(dict.fromkeys(_inferred(family.rows[0]) for family in asked))
    rules = {rule for label, _, rules in wrong for rule in rules if label in mine}
    return Page("\n\n".join(parts) + "\n", f"| [{entry.title}]({name}.md) | {links} | {inference} | {_named(rules)} |")


def wrongs(plan: NormPlan) -> list[Wrong]:
    """What is wrong with a family of rows, and by which rules: (family, fault, rules), in the plan's order."""
    found: dict[tuple[str, str], list[str]] = {}
    for family in families(plan.rows):
        row = family.rows[0]
        for rule in heuristics:
            for fault in faults(row, heuristics[rule](row.name, row.shape)):
                found.setdefault((_label(family), fault), []).append(rule)
    return [(label, fault, tuple(rules)) for (label, fault), rules in found.items()]


def _first(wrong: list[Wrong], mine: Set[str]) -> list[Wrong]:
    """The lines for which a page has room, those of the rows that it is about first."""
    ranked = sorted(range(len(wrong)), key=lambda i: (wrong[i][0] not in mine, i))
    return [wrong[i] for i in sorted(ranked[:_MOST])]


def _more(count: int) -> str:
    return f"\n… and {count} more" if count else ""


def _label(family: Family) -> str:
    return words.shown(family.name) + (f" ×{len(family.rows)}" if len(family.rows) > 1 else "")


def _named(rules: Iterable[str]) -> str:
    """The rules' names, or that it is all or none of them."""
    known = [rule for rule in heuristics if rule in set(rules)]
    spared = [rule for rule in heuristics if rule not in known]
    if len(spared) == 1:
        return f"all but {spared[0]}"
    return ", ".join(known) if spared and known else "none" if spared else "all"


def _inferred(row: Row) -> str:
    """A row in a few words: `hidden 2304→2048, blocks q k v, 3 × 768, spectral`."""
    parts = [f"{row.role} {words.shape(row)}", words.blocks(row.blocks), words.norm(row)]
    tied = f"tied to {len(row.aliases)}" if row.aliases else ""
    return f"`{pattern_of(row.name)}`: " + ", ".join(filter(None, [*parts, tied]))


def _shares(plan: NormPlan) -> str:
    """How many tensors, and which share of all entries, each rule treats wrongly."""
    total, said = sum(row.numel for row in plan.rows), []
    for rule in heuristics:
        wrong = [row for row in plan.rows if faults(row, heuristics[rule](row.name, row.shape))]
        share = 100 * sum(row.numel for row in wrong) / total
        said.append(f"`{rule}` {len(wrong)} ({share:.0f} %)")
    return f"Of {len(plan)} tensors, and in brackets of all entries: {', '.join(said)}."


def _table(wrong: Iterable[Wrong]) -> RenderableType:
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("parameter", "what would be wrong", "with"):
        grid.add_column(title, no_wrap=True)
    for label, fault, rules in wrong:
        grid.add_row(Text(words.cut(label, _NAME)), Text(fault), Text(_named(rules)))
    return grid


def _text(shown: RenderableType) -> str:
    """What is shown, as plain lines without spaces at their ends."""
    out = StringIO()
    Console(file=out, width=WIDTH, highlight=False, color_system=None).print(shown, soft_wrap=False)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().split("\n"))
