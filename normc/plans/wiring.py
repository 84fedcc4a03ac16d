"""How a model's values go from parameter to parameter: the little of its graph that a plan keeps, to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from normc.plans.fields import Fields
from normc.plans.row import Row

_KEYS = ("points", "joins", "edges")


class Edge(NamedTuple):
    """A value of so many `entries`, made at `source`, read at `target`; `stream` where a residual stream brings it to
    a join.
    """

    source: int
    target: int
    entries: int
    stream: bool


class Wiring(NamedTuple):
    """The places of a model's graph where parameters are, and what goes from one to the next.

    Places are numbered: first `points`, one for each module whose parameters meet a value, by a parameter's name or
    alias; then `joins`, residual additions, by the path of the module that adds; then the model's inputs; then its
    output. `edges` are in the order in which the model computes their targets.
    """

    points: tuple[str, ...]
    joins: tuple[str, ...]
    edges: tuple[Edge, ...]

    @property
    def inputs(self) -> int:
        """The number of the model's inputs."""
        return len(self.points) + len(self.joins)

    @property
    def output(self) -> int:
        """The number of the model's output."""
        return self.inputs + 1

    def document(self, rows: Sequence[Row]) -> dict[str, object]:
        """What a plan's file holds of it: points by their places among all names of the rows."""
        place = {name: number for number, name in enumerate(_names(rows))}
        edges = [[*edge[:3], int(edge.stream)] for edge in self.edges]
        return {"points": [place[name] for name in self.points], "joins": list(self.joins), "edges": edges}


def _names(rows: Iterable[Row]) -> list[str]:
    return [name for row in rows for name in (row.name, *row.aliases)]


def read_wiring(data: object, rows: Iterable[Row]) -> Wiring:
    """What `document` wrote. NormcError, naming the field, for anything else."""
    fields = Fields.of(data, "the plan's wiring", _KEYS)
    names = _names(rows)
    points = tuple(names[number] for number in fields.wholes("points", len(names)))
    joins = fields.texts("joins")
    places = len(points) + len(joins) + 2
    return Wiring(points, joins, tuple(_edge(fields, item, places) for item in fields.items("edges")))


def _edge(fields: Fields, item: object, places: int) -> Edge:
    if not isinstance(item, list) or len(item) != 4:
        fields.fail("edges", "should hold [source, target, entries, stream]")
    source, target = (fields.whole_value("edges", number, places) for number in item[:2])
    return Edge(source, target, fields.whole_value("edges", item[2]), bool(fields.whole_value("edges", item[3], 2)))
