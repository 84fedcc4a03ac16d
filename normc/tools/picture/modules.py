"""From the names of a plan's rows to nested parts: a module is a box, a module of parameters alone a card."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from normc.plans.row import Row
from normc.tools.picture.parts import Part, Place

_DEEPEST = 40  # modules within modules that are drawn as boxes; what lies deeper has one box with a longer name
_NUMBERED = re.compile(r"(.*?)([0-9]{1,9})", re.DOTALL)


@dataclass(slots=True)
class _Module:
    inside: dict[str, _Module] = field(default_factory=dict)
    own: list[Place] = field(default_factory=list)


def modules(rows: Sequence[Row], model: str, met: Collection[str]) -> Part:
    """The model as a box: modules in the rows' order, tied parameters under every name, repeated layers in one box.

    `met` are the names that stand for their module where lines come and go.
    """
    root = _Module()
    for row in rows:
        for name in (row.name, *row.aliases):
            *path, short = name.split(".")
            path = [*path[:_DEEPEST], *([".".join(path[_DEEPEST:])] if path[_DEEPEST:] else [])]
            at = root
            for step in path:
                at = at.inside.setdefault(step, _Module())
            at.own.append(Place(row, name, short, name != row.name))
    made = _part(root, model, "", met)
    return made if made.kind == "box" else Part("box", model, "", parts=[made])


def _part(module: _Module, label: str, path: str, met: Collection[str]) -> Part:
    own = _cards(module, path, met)
    if not module.inside and len(own) == 1:
        return replace(own[0], label=label)
    parts = own
    for step, inner in module.inside.items():
        below = f"{path}.{step}" if path else step
        said = f"{label.rpartition('.')[2]}.{step}" if step.isdecimal() and path else step
        while len(inner.inside) == 1 and not inner.own:  # a module that holds one module is drawn as that one
            ((step, inner),) = inner.inside.items()
            below, said = f"{below}.{step}", f"{said}.{step}"
        parts.append(_part(inner, said, below, met))
    folded = _folded(parts)
    if len(folded) == 1 and folded[0].alike:
        return folded[0]
    return Part("box", label, path, parts=folded)


def _cards(module: _Module, path: str, met: Collection[str]) -> list[Part]:
    """A module's own parameters: one card, or one for each that lines lead to, with those that follow it."""
    leads = [place.name in met and (bool(module.inside) or len(place.row.shape) > 1) for place in module.own]
    groups: list[list[Place]] = []
    for place, first in zip(module.own, leads, strict=True):
        if not groups or (first and any(leads[: module.own.index(place)])):
            groups.append([])
        groups[-1].append(place)
    return [Part("card", "", path, places=tuple(group)) for group in groups]


def _folded(parts: list[Part]) -> list[Part]:
    """Neighbours that differ in a number and in sizes alone, as one part."""
    runs: list[list[Part]] = []
    for part in parts:
        if runs and _repeats(runs[-1][-1], part):
            runs[-1].append(part)
        else:
            runs.append([part])
    return [run[0] if len(run) == 1 else _fold(run) for run in runs]


def _fold(run: list[Part]) -> Part:
    last = _NUMBERED.fullmatch(run[-1].label)
    assert last is not None
    return Part("box", f"{run[0].label} – {last[2]}", run[0].path, parts=run, alike=True)


def _repeats(before: Part, part: Part) -> bool:
    first, second = _NUMBERED.fullmatch(before.label), _NUMBERED.fullmatch(part.label)
    if first is None or second is None or first[1] != second[1] or int(second[2]) != int(first[2]) + 1:
        return False
    return _form(before) == _form(part)


def _form(part: Part) -> object:
    """What layers that are drawn as one agree in: all but numbers, sizes and reasons."""
    own = tuple(
        (place.short, len(row.shape), row.role, row.norm, row.rule, len(row.blocks), row.fallback is None, row.frozen,
         place.tied, len(row.aliases))
        for place in part.places for row in (place.row,)
    )  # fmt: skip
    if part.alike:
        return part.label.rpartition(".")[2], len(part.parts), _form(part.parts[0])
    return own, tuple((inner.label if inner.kind == "box" or inner.label else "", _form(inner)) for inner in part.parts)
