"""What crosses ranks in a step of one parameter, and who owns it. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from normc.update.runtime.lying import elsewhere, shape_of
from normc.update.runtime.spread import Held, Value, copied, held


@dataclass(frozen=True)
class Crossing:
    """A tensor that one part of a step hands to another: `name` in both, of a state's `kind`.

    `source` is "weight", "grad" or the name of a state, where it is one of these as it lies there; None for a value
    that only the step knows. `wire` is the dtype that it crosses ranks in, None for that which it has.
    """

    name: str
    kind: str
    source: str | None = None
    wire: torch.dtype | None = None


@dataclass(frozen=True)
class Spread:
    """How one parameter is stepped over the ranks of a team, and by whom: `owner` is a rank of the team, or None where
    none needs the parameter whole. Owners' work comes in windows, of which `window` says the parameter's.

    there   what the owner gets
    back    what it hands on; what is a state's or the weight's new value has it as its source
    across  what the last part gets of the first, on the same rank
    states  (name, kind) of all that is kept between steps
    """

    name: str
    held: Held
    team: int
    owner: int | None
    there: tuple[Crossing, ...] = ()
    back: tuple[Crossing, ...] = ()
    across: tuple[Crossing, ...] = ()
    states: tuple[tuple[str, str], ...] = ()
    window: int = 0


def windows_in(spreads: Sequence[Spread]) -> int:
    """How many windows owners' work comes in; none where nothing is owned."""
    return max((spread.window + 1 for spread in spreads if spread.owner is not None), default=0)


def value_of(
    spread: Spread,
    one: Crossing,
    lies: tuple[Sequence[int], Sequence[Any]] | None,
    wide: torch.dtype,
    dtypes: Mapping[str, torch.dtype],
) -> Value:
    """What crosses: in `wide`, or in the dtype of the state that it is. The parameter `lies` on a mesh of this shape,
    so placed, or is a plain one (None); states of other shapes lie as `elsewhere` says.
    """
    assert spread.owner is not None
    if one.kind == "like":
        own = spread.held
    elif lies is None:
        own = copied(shape_of(one.kind), len(spread.held.parts))
    else:
        own = held(shape_of(one.kind), lies[0], elsewhere(lies[1], one.kind))
    return Value((spread.name, one.name), own, dtypes.get(str(one.source), wide), spread.owner, one.wire)
