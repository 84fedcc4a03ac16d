"""The plan of a whole model: immutable rows, found by name, overridden into new plans, compared, hashed and saved."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import sympy
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

from normc.arguments import by_text, instance, shown, whole
from normc.errors import NormcError
from normc.plans import document
from normc.plans.at import Dimension, Origin
from normc.plans.balance import Certificate, certify
from normc.plans.decision import Option, checksum, decisions, digest
from normc.plans.override import Asked, matching, overridden
from normc.plans.row import Row
from normc.plans.sharpness import Sharpness, unknown
from normc.plans.wiring import Wiring
from normc.registry import Registry


class Coverage(NamedTuple):
    """How much of a model was inferred: tensors, and entries in them. The rest are fallbacks and what isn't used."""

    tensors: int
    all_tensors: int
    entries: int
    all_entries: int


class Change(NamedTuple):
    """A row that two plans don't agree on: (field, here, there) each. A row of one plan alone has one field, "row"."""

    name: str
    fields: tuple[tuple[str, object, object], ...]


@dataclass(frozen=True)
class NormPlan:
    """What was inferred about every parameter of `model`, and what `recipe` will do to it. Prints as a table.

    `options` are the recipe's, as (name, value) pairs; `notes` say what was guessed and what no gradient reaches.
    `origin` is what it was made from, where that is known: no file holds it. `saved` is the sharpness that one held.
    `wiring` is what is kept of the model's graph for a picture: no decision, so neither hash nor comparison has it.
    NormcError if a name or an alias stands for two parameters.
    """

    rows: tuple[Row, ...]
    model: str
    recipe: str
    options: tuple[tuple[str, Option], ...] = ()
    notes: tuple[str, ...] = ()
    origin: Origin[NormPlan] | None = field(default=None, compare=False, repr=False)
    saved: Sharpness | None = field(default=None, compare=False, repr=False)
    wiring: Wiring | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name in (name for row in self.rows for name in (row.name, *row.aliases)):
            if name in seen:
                raise NormcError(
                    f"the plan of {self.model} has two rows called {name!r}", "give every parameter one row"
                )
            seen.add(name)
        options = [name for name, _ in self.options]
        if len(set(options)) < len(options):
            raise NormcError(
                f"the plan of {self.model} gives an option of {self.recipe} twice", "give each option once"
            )

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._index

    def __getitem__(self, name: str) -> Row:
        if instance("the name of a row", name, str, "give a parameter's name") not in self._index:
            raise NormcError(f"the plan of {self.model} has no parameter {shown(name)}", near(name, self._index))
        return self._index[name]

    @cached_property
    def by_name(self) -> Mapping[str, Row]:
        """Rows by their first name, in the model's order."""
        return MappingProxyType({row.name: row for row in self.rows})

    @cached_property
    def _index(self) -> dict[str, Row]:
        return {name: row for row in self.rows for name in (row.name, *row.aliases)}

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of what an update depends on. Reports show the first 16 digits.

        It survives what doesn't matter: evidence and notes, the model's dtype, the order of its modules, a difference
        in scale of less than 0.4 %.
        """
        return digest(self.recipe, self.options, self.rows)

    @cached_property
    def checksum(self) -> str:
        """SHA-256, in hex, of every decision to the last digit. It was the hash in normc up to 0.1."""
        return checksum(self.recipe, self.options, self.rows)

    @property
    def state_bytes(self) -> int:
        """Bytes of optimizer state of what learns: a frozen parameter has none before its first gradient."""
        return sum(row.state_bytes for row in self.rows if not row.frozen)

    @property
    def coverage(self) -> Coverage:
        """Tensors and entries whose role was inferred, and all of them."""
        inferred = [row for row in self.rows if row.fallback is None and row.role != "unused"]
        entries = sum(row.numel for row in inferred), sum(row.numel for row in self.rows)
        return Coverage(len(inferred), len(self.rows), *entries)

    def certificate(self) -> Certificate:
        """Sums of masses and of sensitivity * magnitude * target: both 1 where the recipe is one of masses."""
        return certify(self.rows)

    @cached_property
    def sharpness(self) -> Sharpness:
        """Second order: how far the output bends, in the modular norm; computed when it is first asked for.

        Bounds need gains that bound (options `gains` sharp or modula) and a rule for every op on the way: where one is
        missing, all three are None, and `missing` says which op came first.
        """
        if self.origin is not None:
            return self.origin.sharpness(self)
        return self.saved or unknown("the plan holds no trace: make it anew with normc.plan")

    def matching(self, pattern: str) -> tuple[Row, ...]:
        """Rows one of whose names is `pattern`, or matches it as a case-sensitive glob. NormcError if none does."""
        found = matching(self.rows, instance("the pattern", pattern, str, "give a name or a glob, as '*.attn.*'"))
        if not found:
            raise NormcError(f"no parameter of {self.model} matches {shown(pattern)}", near(pattern, self._index))
        return found

    def override(
        self,
        pattern: str,
        *,
        norm: str | None = None,
        scale: float | sympy.Expr | None = None,
        mass: float | None = None,
        weight_decay: float | None = None,
    ) -> NormPlan:
        """A new plan in which the rows whose name or alias matches the glob `pattern` (case counts) differ.

        norm   a registered norm; the row keeps its target, its scale becomes target * the norm's geometric factor
        scale  the size of a unit-lr step: a number, or a sympy expression in d_out, d_in and k; the target follows
        mass   each row's share of feature learning: target and scale change in proportion; 0 freezes it. Where the
               recipe is one of masses (modula, modular-dual), the other rows' are scaled: all sum to one again
        weight_decay  by what the group's weight_decay is multiplied, 0 or more: 0 for no decay, 1 for the group's own
        """
        chosen = {row.name for row in self.matching(pattern)}
        rows = overridden(self.rows, chosen, Asked(pattern, norm, scale, mass, weight_decay), self.recipe)
        change = {"norm": norm, "scale": scale, "mass": mass, "weight_decay": weight_decay}
        origin = self.origin and self.origin.overridden(pattern, change)
        return replace(self, rows=rows, origin=origin, saved=None)

    @property
    def _known_origin(self) -> Origin[NormPlan]:
        if self.origin is None:
            raise NormcError(
                f"the plan of {self.model} holds no trace: it was loaded from a file or put together by hand",
                "make it with normc.plan, or at its new size",
            )
        return self.origin

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The model's sizes by name, as `at` takes them. NormcError for a plan that holds no trace."""
        return self._known_origin.dimensions

    def at(self, sizes: Mapping[str, int] | None = None, /, **more: int) -> NormPlan:
        """The plan of the same model at other sizes, by the names of `dimensions`: `plan.at(d_model=4096, n_layer=48)`.

        The model isn't traced again: its graph is rewritten, and the passes look at it anew. Sizes that follow d_model
        keep their ratio to it; all others stay. NormcError for a name that there isn't, and a size that can't be.
        """
        return self._known_origin.at(self, by_text("sizes", sizes, 'give {"d_model": 4096}') | more)

    def formula(self, name: str) -> sympy.Expr:
        """A row's scale in d_out, d_in, k and, where it follows a law of depth, L, the number of blocks.

        Found from plans at three other depths, and held against each; NormcError for a plan that holds no trace.
        """
        row = self[name]
        law = self._known_origin.law(self, row.name, None)
        return law.formula if law is not None else row.scale.formula

    def diff(self, other: NormPlan) -> tuple[Change, ...]:
        """The rows whose decisions differ, and in which fields; empty if the plans' rows agree."""
        instance("the other plan", other, NormPlan, "give what normc.plan or normc.load returned")
        changes = []
        for name in dict.fromkeys((*self.by_name, *other.by_name)):
            here, there = self.by_name.get(name), other.by_name.get(name)
            if here is None or there is None:
                changes.append(Change(name, (("row", here, there),)))
                continue
            mine, theirs = decisions(here), decisions(there)
            pairs = [(key, mine.get(key, 1.0), theirs.get(key, 1.0)) for key in {**mine, **theirs}]  # decay may lack
            fields = tuple(pair for pair in pairs if pair[1] != pair[2])
            if fields:
                changes.append(Change(name, fields))
        return tuple(changes)

    def to_json(self) -> str:
        """The plan as a document: stable, versioned, one line a fact, with its hash."""
        facts = self.rows, self.model, self.recipe, self.options, self.notes, self.sharpness, self.wiring
        return document.write(document.Contents(*facts), self.hash, self.checksum)

    @staticmethod
    def from_json(text: str) -> NormPlan:
        """The plan that `to_json` wrote. NormcError, naming row and field, for anything but such a document."""
        contents, claimed = document.read(instance("the plan", text, str, "give what plan.to_json() returned"))
        found = NormPlan(*contents[:5], saved=contents.sharpness, wiring=contents.wiring)
        for name, held in claimed.items():
            # Files without a checksum hold it as their hash.
            own = found.hash if name == "hash" and len(claimed) > 1 else found.checksum
            if own != held:
                raise NormcError(
                    f"the plan's {name} is {held[:16]}, its rows hash to {own[:16]}: it was changed by hand or damaged",
                    "load the plan as it was, change it with override(), and save it again",
                )
        return found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield reports["table"](self, options.max_width)

    def __str__(self) -> str:
        """The table, as wide as the terminal; in colour if standard output is one."""
        return self.text(color=sys.stdout is not None and sys.stdout.isatty())

    def text(self, width: int | None = None, color: bool = False, brief: bool = False) -> str:
        """The table as text, by default as wide as the terminal (80 columns if there is none), without colour codes.
        With `brief` a line for each role and norm, then the rows that someone should look at.
        """
        console = _console(width, color)
        return _text(console, reports["brief" if brief else "table"](self, console.width))

    def explain(self, pattern: str, width: int | None = None) -> str:
        """Everything that is known of the rows that match `pattern`, as `normc plan --explain` prints it, `width`
        columns wide; by default as wide as the terminal. NormcError if none does.
        """
        return _text(_console(width), explanations["rows"](self, (pattern,)))

    def to_html(self) -> str:
        """The plan as a picture: one page of HTML that needs no network (docs/picture.md)."""
        return pictures["html"](self)

    def to_svg(self) -> str:
        """The same picture, as it opens, for papers: an SVG in light colours."""
        return pictures["svg"](self)

    def _repr_html_(self) -> str:
        return pictures["notebook"](self)


def _console(width: int | None, color: bool = False) -> Console:
    """NormcError for a width below 1, or of another type."""
    width = None if width is None else whole("the width of a table", width, 1, "give a number of columns, or None")
    return Console(width=width, force_terminal=color, no_color=None if color else True, highlight=False)


def _text(console: Console, shown: RenderableType) -> str:
    """What the console prints, without spaces at ends of lines."""
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))


Report = Callable[["NormPlan", int], RenderableType]
Explanation = Callable[["NormPlan", Sequence[str]], RenderableType]
# By name, since what draws a plan lies above it: the reports import the plan, not the other way round.
reports: Registry[Report] = Registry("report", "normc.tools.report")
explanations: Registry[Explanation] = Registry("explanation", "normc.tools.report")
pictures: Registry[Callable[[NormPlan], str]] = Registry("picture", "normc.tools.picture")


def near(name: str, known: Iterable[str]) -> str:
    """What to say to someone who asked for `name`: the nearest of the known names."""
    known = list(known)
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return (
        f"did you mean {' or '.join(map(repr, found))}?" if found else f"print the plan to see its {len(known)} names"
    )
