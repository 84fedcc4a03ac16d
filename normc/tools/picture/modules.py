"""From the names of a plan's rows to nested parts: a module is a box, a module of parameters alone a card."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from normc.plans.row import Row
from normc.tools.picture.parts import Part, Place

_DEEPEST = 40  # modules within each other that are boxes of their own; what lies deeper is one with a longer name
_NUMBERED = re.compile(r"(.*?)([0-9]{1,9})", re.DOTALL)


@dataclass(slots=True)
class _Module:
    inside: dict[str, _Module] = field(default_factory=dict)
    own: list[Place] = field(default_factory=list)


class _Known(NamedTuple):
    met: Collection[str]
    joining: Collection[str]
    apart: Collection[str]


def modules(
    rows: Sequence[Row],
    model: str,
    met: Collection[str] = (),
    joining: Collection[str] = (),
    apart: Collection[str] = (),
) -> Part:
    """The model as a box: modules in the rows' order, tied parameters under every name, repeated layers in one box.

    `met` are the names that stand for their module where lines come and go; modules at the paths `joining` add to a
    residual stream, so each of them is a box of its own. Repeated layers are apart where the first one's path is in
    `apart`.
    """
    root = _Module()
    for row in rows:
        for name in (row.name, *row.aliases):
            *path, short = name.split(".")
            deeper = [".".join(path[_DEEPEST:])] if len(path) > _DEEPEST else []
            at = root
            for step in [*path[:_DEEPEST], *deeper]:
                at = at.inside.setdefault(step, _Module())
            at.own.append(Place(row, name, short, name != row.name))
    return Part("box", model, "", parts=_parts(root, "", "", _Known(met, joining, apart)))


def _part(module: _Module, label: str, path: str, known: _Known) -> Part:
    own = _cards(module, path, known)
    if not module.inside and len(own) == 1:
        return replace(own[0], label=label)
    parts = _parts(module, label, path, known)
    if len(parts) == 1 and parts[0].alike and path not in known.joining:
        short = parts[0].label.removeprefix(f"{_last(label)}.")
        return replace(parts[0], label=f"{label}.{short}")
    return Part("box", label, path, parts=parts)


def _parts(module: _Module, label: str, path: str, known: _Known) -> list[Part]:
    """What stands in the box of a module: its own parameters, then its modules, layers alike as one."""
    runs: list[list[tuple[str, Part]]] = []
    for step, inner in module.inside.items():
        below = f"{path}.{step}" if path else step
        said = f"{_last(label)}.{step}" if step.isdecimal() and label else step
        name, at, deeper = said, inner, step
        while (
            len(at.inside) == 1 and not at.own and below not in known.joining
        ):  # a module that holds one module is drawn as that one
            ((deeper, at),) = at.inside.items()
            below, said = f"{below}.{deeper}", f"{said}.{deeper}"
        part = _part(at, said, below, known)
        if runs and runs[-1][0][1].path not in known.apart and _repeats(runs[-1][-1], (name, part)):
            runs[-1].append((name, part))
        else:
            runs.append([(name, part)])
    own = [replace(card, label=label if not module.inside and not path else "") for card in _cards(module, path, known)]
    return [*own, *(run[0][1] if len(run) == 1 else _fold(run) for run in runs)]


def _last(label: str) -> str:
    """The end of a label that says something: `h` of `transformer.h`, `h.0` of itself."""
    last = label.rpartition(".")[2]
    return label if last.isdecimal() else last


def _cards(module: _Module, path: str, known: _Known) -> list[Part]:
    """A module's own parameters: one card, or one for each that lines lead to, with those that follow it."""
    leads = [place.name in known.met and (bool(module.inside) or len(place.row.shape) > 1) for place in module.own]
    groups: list[list[Place]] = []
    for place, first in zip(module.own, leads, strict=True):
        if not groups or (first and any(leads[: module.own.index(place)])):
            groups.append([])
        groups[-1].append(place)
    return [Part("card", "", path, places=tuple(group)) for group in groups]


def _fold(run: list[tuple[str, Part]]) -> Part:
    last = _NUMBERED.fullmatch(run[-1][0])
    assert last is not None
    label = f"{run[0][0]} – {last[2]}"
    return Part("box", label, run[0][1].path, parts=[part for _, part in run], alike=True)


def _repeats(before: tuple[str, Part], after: tuple[str, Part]) -> bool:
    """Whether two neighbours are one layer and the next: a number apart, and alike but for sizes."""
    first, second = _NUMBERED.fullmatch(before[0]), _NUMBERED.fullmatch(after[0])
    if first is None or second is None or first[1] != second[1] or int(second[2]) != int(first[2]) + 1:
        return False
    return _form(before[1]) == _form(after[1])


def _form(part: Part) -> object:
    """What layers that are drawn as one agree in: all but numbers, sizes and reasons."""
    own = tuple(
        (place.short, len(row.shape), row.role, row.norm, row.rule, len(row.blocks), row.fallback is None, row.frozen,
         place.tied, len(row.aliases))
        for place in part.places for row in (place.row,)
    )  # fmt: skip
    if part.alike:
        return len(part.parts), _form(part.parts[0])
    return own, tuple((inner.path.rpartition(".")[2], _form(inner)) for inner in part.parts)
