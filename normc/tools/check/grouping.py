"""What is one line of a table: layers alike, whose names differ in whole numbers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import sympy
from torch import nn

from normc.plans.plan import NormPlan
from normc.plans.row import Scale
from normc.tools.check.recording import OUTPUT
from normc.tools.check.slopes import Along
from normc.tools.report.families import Family, families, pattern_of

Name = Callable[[str], str]


def naming(model: nn.Module, along: Along) -> Name:
    """From a recorded path to the name of its line, which is the same in models of other sizes.

    Where modules of one pattern differ in kind or shape (the numbered layers of a Sequential), a width check keeps them
    apart by their paths, and a depth check by what they are, since their numbers shift.
    """
    kinds: dict[str, set[object]] = {}
    described: dict[str, str] = {}
    for path, module in model.named_modules():
        shapes = tuple((name, tuple(parameter.shape)) for name, parameter in module.named_parameters())
        kinds.setdefault(pattern_of(path), set()).add((type(module), shapes))
        sizes = "×".join(map(str, shapes[0][1])) if shapes else ""
        described[path] = f"{pattern_of(path)} ({' '.join(filter(None, (type(module).__name__, sizes)))})"

    def name(recorded: str) -> str:
        if recorded == OUTPUT:
            return recorded
        path, space, rest = recorded.partition(" ")
        pattern = pattern_of(path)
        if len(kinds.get(pattern, ())) > 1:
            pattern = path if along == "width" else described[path]
        return pattern + space + rest

    return name


def lines(plan: NormPlan) -> tuple[Family, ...]:
    """The rows that learn, as the plan's table has them, but whatever their scales are."""
    alike = Scale(sympy.Integer(0), (0.0,))
    return families([replace(row, scale=alike) for row in plan.rows if row.rule != "none" and not row.frozen])
