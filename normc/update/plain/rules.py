"""A function of a plain file: what a family of chains does, printed with what differs between its rows as arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from normc.plans.geometry import NORMED
from normc.plans.row import Row
from normc.update.plain.sources import Library
from normc.update.plain.structure import Form, arguments, plain, together
from normc.update.plain.views import as_matrices
from normc.update.plain.wrapping import docstring, fill, wrap
from normc.update.program.program import ROWWISE, Chain, placeholders, returned
from normc.update.program.source import literal

Values = tuple[Any, ...]  # one for each row


@dataclass
class Rule:
    """A function, and the chains that it updates. `columns` are its arguments' values, one for each row."""

    name: str
    chains: list[Chain]
    columns: dict[str, Values] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, in the order of the columns."""
        return tuple(row for chain in self.chains for row in chain.rows)

    @property
    def graph(self) -> fx.Graph:
        """What it does."""
        return self.chains[0].graph

    @property
    def group(self) -> int:
        """The parameter group of all rows."""
        return self.chains[0].group

    @property
    def numbers(self) -> list[str]:
        """Values of the parameter group that it reads, the learning rate first."""
        return sorted((node.name for node in placeholders(self.graph, "number")), key="lr".__ne__)


def rules_of(chains: Sequence[Chain]) -> list[Rule]:
    """A rule for all chains of the same ops on the same operands, whatever numbers and shapes these are given."""
    rules: list[Rule] = []
    for alike in together([plain(chain) for chain in chains]):
        row = alike[0].row
        base = "step_" + re.sub(r"\W", "_", row.norm if row.rule in NORMED else row.rule, flags=re.ASCII)
        number = sum(re.sub(r"_\d+$", "", rule.name) == base for rule in rules)
        rules.append(Rule(f"{base}_{number + 1}" if number else base, alike))
    return rules


class Writer:
    """Prints one rule. `constants` are the file's, by value; `ops` are names that its variables can't have."""

    def __init__(self, rule: Rule, library: Library, constants: dict[object, str], ops: set[str]) -> None:
        self.rule, self.library, self.constants = rule, library, constants
        self.graph = rule.graph
        self.form = Form(self.graph)
        self.forms = [Form(chain.graph) for chain in rule.chains]
        self.place = {node: place for place, node in enumerate(self.graph.nodes)}
        self.names: dict[fx.Node, str] = {}
        self.taken = {"w", "g", "state", *rule.numbers, *ops}

    def lines(self) -> list[str]:
        """The function's lines."""
        body = [line for node in self.graph.nodes if node.op == "call_function" for line in self._statement(node)]
        states = placeholders(self.graph, "state")
        start = self._start(states)
        weight, *news = returned(self.graph)
        kept = ", ".join(f'"{old.name}": {self.names[new]}' for old, new in zip(states, news, strict=True))
        arguments = ["w", "g", "state", *self.rule.columns, *self.rule.numbers, "**_"]
        return [
            *fill(f"def {self.rule.name}(", arguments, "):", len(f"def {self.rule.name}(")),
            *docstring(self._told(), 4),
            *start,
            *body,
            *wrap(f"    return {self.names[weight]}, {{{kept}}}"),
        ]

    def _told(self) -> str:
        """How many rows of which roles, and by what they are updated."""
        rows = self.rule.rows
        roles = ", ".join(dict.fromkeys(row.role for row in rows))
        what = f"norm {rows[0].norm}" if rows[0].rule in NORMED else f"rule {rows[0].rule}"
        number = "1 parameter" if len(rows) == 1 else f"{len(rows)} parameters"
        return f"{roles[0].upper()}{roles[1:]}: {number}, {what}."

    def _start(self, states: list[fx.Node]) -> list[str]:
        """States are zeros at first: those shaped like their weight are so without a word."""
        kinds = {node.meta["state"] for node in states} - {"grad"}
        if not kinds - {"like"}:
            return []
        made = [f'"{node.name}": {self._zeros(node)}' for node in states if node.meta["state"] not in ("like", "grad")]
        return ["    if not state:", *wrap(f"        state |= {{{', '.join(made)}}}")]

    def _zeros(self, node: fx.Node) -> str:
        if node.meta["state"] == "count":
            return "torch.zeros(1)"
        shapes = tuple(
            (1, *map(int, own.meta["state"].split("x")))
            for chain in self.rule.chains
            for own in placeholders(chain.graph, "state")
            if own.name == node.name
            for _ in chain.rows
        )
        return f"w.new_zeros({self._column(f'{node.name}_shape', shapes)})"

    def _statement(self, node: fx.Node) -> list[str]:
        op: Any = node.target
        given = {name: self._argument(node, name, value) for name, value in arguments(node).items()}
        if node.target is as_matrices and list(node.users) == [node.next]:  # reads well where it is used
            self.names[node] = self.library.call(op, given, "")
            return []
        return wrap(self.library.call(op, given, f"    {self._assigned(node)} = "))

    def _argument(self, node: fx.Node, name: str, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self._value(value)
        if isinstance(value, list):
            return f"[{', '.join(map(self._value, value))}]"
        values: list[Any] = []
        for chain, form in zip(self.rule.chains, self.forms, strict=True):
            own = self.form.value(node, name, form)
            values += own if name in ROWWISE and isinstance(own, tuple) else (own,) * len(chain.rows)
        whole = [(1, *row.shape) for row in self.rule.rows]
        if name == "shape" and all(own in (None, known) for own, known in zip(values, whole, strict=True)):
            return "w.shape"
        return self._column(name, tuple(values))

    def _column(self, name: str, values: Values) -> str:
        """An argument of the rule, or what is the same for all of its rows and says nothing of their shape."""
        value = values[0]
        if len(set(values)) == 1 and not (name == "view" and value) and not (name in ROWWISE and value != 1.0):
            if isinstance(value, tuple) and value and isinstance(value[0], tuple) and isinstance(value[0][0], float):
                return self.constants.setdefault(value, _numbered("POLYNOMIALS", len(self.constants)))
            return literal(value)
        known = next((known for known, column in self.rule.columns.items() if column == values), None)
        if known is None:
            known, number = name, 2
            while known in self.taken or known in self.rule.columns or known in self.names.values():
                known, number = f"{name}_{number}", number + 1
            self.rule.columns[known] = values
        return known

    def _value(self, node: fx.Node) -> str:
        if node.op != "placeholder":
            return self.names[node]
        if node.meta["kind"] == "state":
            return "g" if node.meta["state"] == "grad" else f'state["{node.name}"]'
        return {"weight": "w", "grad": "g"}.get(node.meta["kind"], node.name)

    def _assigned(self, node: fx.Node) -> str:
        """A variable: the node's name without its number, unless a value of that name is still needed."""
        base, at = re.sub(r"_\d+$", "", node.name), self.place[node]
        base = "x" if base in ("l", "I", "O") else base  # as PEP 8 asks
        live = {self._value(other) for other in self.graph.nodes if self._last(other) > at and self._known(other)}
        name, number = base, 2
        while name in live or name in self.taken - {"w", "g"} or name in self.rule.columns:
            name, number = f"{base}_{number}", number + 1
        self.names[node] = name
        return name

    def _known(self, node: fx.Node) -> bool:
        return node in self.names or node.op == "placeholder"

    def _last(self, node: fx.Node) -> int:
        return max((self.place[user] for user in node.users), default=-1)


def _numbered(name: str, place: int) -> str:
    return f"{name}_{place + 1}" if place else name
