"""Repeated layers as one line: rows whose names differ in whole-number parts alone, and whose steps in size alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from normc.plans.row import Row

_FEW = 3  # so many sizes of step are shown apart; more become one line with their range
Index = tuple[int, ...]
Box = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Rows that are one line of the table. `name` and `aliases` have `*`, or the numbers meant, where rows differ."""

    name: str
    aliases: tuple[str, ...]
    rows: tuple[Row, ...]


def families(rows: Iterable[Row]) -> tuple[Family, ...]:
    """All rows, each in one family, in the order of the families' first rows."""
    named: dict[str, list[Row]] = {}
    for row in rows:
        named.setdefault(_split(row.name)[0], []).append(row)
    order = {row.name: place for place, row in enumerate(rows)} if isinstance(rows, Sequence) else {}
    found = [family for pattern, members in named.items() for family in _alike(pattern, members)]
    return tuple(sorted(found, key=lambda family: order.get(family.rows[0].name, 0)))


def _split(name: str) -> tuple[str, Index]:
    """`h.3.w` as the pattern `h.NUL.w`, NUL being a character that no name needs, and its numbers."""
    parts = name.split(".")
    numbers = tuple(int(part) for part in parts if _is_number(part))
    return ".".join("\0" if _is_number(part) else part for part in parts), numbers


def pattern_of(name: str) -> str:
    """`h.3.w` as `h.*.w`: layers that differ in whole numbers alone have one pattern."""
    return _split(name)[0].replace("\0", "*")


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdecimal() and (part == "0" or part[0] != "0") and len(part) < 10


def _alike(pattern: str, members: list[Row]) -> list[Family]:
    """The families among rows of one pattern."""
    groups: dict[object, dict[Index, Row]] = {}
    scales: dict[object, set[object]] = {}
    for row in members:
        scales.setdefault(_sameness(row), set()).add(_size(row))
    for row in members:
        same = _sameness(row)
        key = same if len(scales[same]) > _FEW else (same, _size(row))
        groups.setdefault(key, {})[_split(row.name)[1]] = row
    indices = [_split(row.name)[1] for row in members]
    everything = tuple(tuple(sorted(set(column))) for column in zip(*indices, strict=True))
    found = []
    for group in groups.values():
        for box in _boxes(sorted(group)):
            inside = tuple(
                row for index, row in group.items() if all(i in ok for i, ok in zip(index, box, strict=True))
            )
            words = [_word(chosen, known) for chosen, known in zip(box, everything, strict=True)]
            found.append(Family(_fill(pattern, words), _alias_patterns(inside), inside))
    return found


def _sameness(row: Row) -> object:
    """What rows of a family agree in: all that the table shows of them but how large their steps are."""
    first = row.scale.per_block[0] or 1.0
    scale = (row.scale.formula.as_coeff_Mul()[1], tuple(f"{value / first:.5g}" for value in row.scale.per_block))
    axes = (row.in_axes, row.out_axes, row.block_axes, row.kernel_axes)
    aliases = tuple(_split(alias)[0] for alias in row.aliases)
    return (
        row.shape,
        row.dtype,
        row.role,
        axes,
        row.blocks,
        row.norm,
        row.rule,
        scale,
        row.frozen,
        row.decay,
        row.fallback,
        aliases,
    )


def _size(row: Row) -> object:
    """How large a row's steps are."""
    return tuple(f"{value:.5g}" for value in row.scale.per_block)


def _boxes(indices: list[Index]) -> list[Box]:
    """Few products of sets of numbers that hold exactly these indices."""
    if not indices[0]:
        return [()]
    rests: dict[int, list[Index]] = {}
    for first, *rest in indices:
        rests.setdefault(first, []).append(tuple(rest))
    firsts: dict[tuple[Index, ...], list[int]] = {}
    for first, found in rests.items():
        firsts.setdefault(tuple(found), []).append(first)
    return [(tuple(chosen), *box) for found, chosen in firsts.items() for box in _boxes(list(found))]


def _word(chosen: tuple[int, ...], known: tuple[int, ...]) -> str:
    """`*` for all of several numbers, `{0,3-5}` for some."""
    if len(chosen) == 1:
        return str(chosen[0])
    if chosen == known:
        return "*"
    runs: list[list[int]] = []
    for number in chosen:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "{" + ",".join(str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a},{b}" for a, b in runs) + "}"


def _fill(pattern: str, words: list[str]) -> str:
    pieces = pattern.split("\0")
    return pieces[0] + "".join(word + piece for word, piece in zip(words, pieces[1:], strict=True))


def _alias_patterns(rows: tuple[Row, ...]) -> tuple[str, ...]:
    if len(rows) == 1:
        return rows[0].aliases
    return tuple(_split(alias)[0].replace("\0", "*") for alias in rows[0].aliases)
