"""What the passes know so far, and why. Facts only grow; a pass reads the graph and the facts before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import fx

from normc.model.trace.graph import ModelGraph
from normc.nodes import op_name
from normc.plans.row import Evidence
from normc.registry import Registry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts by their type: `facts[Layouts]`."""

    known: Mapping[type, Any] = field(default_factory=dict)

    def __getitem__(self, kind: type[T]) -> T:
        found = self.known[kind]
        assert isinstance(found, kind)
        return found

    def about(self, parameter: str) -> Facts:
        """Facts of the path through the model on which that parameter is read: these, if nothing else is said."""
        elsewhere = self.known.get(Elsewhere)
        found = elsewhere.of.get(parameter, self) if isinstance(elsewhere, Elsewhere) else self
        assert isinstance(found, Facts)
        return found

    def plus(self, fact: object) -> Facts:
        """The same facts and one more."""
        return Facts({**self.known, type(fact): fact})


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Facts of other paths through the model, by the parameters that are read there alone."""

    of: Mapping[str, Facts]


@dataclass(slots=True)
class Log:
    """Every decision of the passes, by parameter; and what is to be said about the model as a whole."""

    evidence: dict[str, list[Evidence]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    gains_probed: dict[str, fx.Node] = field(default_factory=dict)

    def because(self, parameter: str, fact: str, claim: str, reason: str, node: fx.Node | None = None) -> None:
        """Record that `claim` was decided about `parameter`, for `reason`, seen at `node`."""
        op, source = (op_name(node), node.meta.get("source", "")) if node is not None else ("", "")
        self.evidence.setdefault(parameter, []).append(Evidence(fact, claim, reason, op, source))


Analysis = Callable[[ModelGraph, Facts, Log], object]
analyses: Registry[Analysis] = Registry("analysis pass", "normc.passes.analyses")


def analysis(name: str) -> Callable[[Analysis], Analysis]:
    """Register a pass: a pure function from the graph and the facts before it to one new fact."""
    return analyses.register(name)
