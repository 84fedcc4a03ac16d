"""Exponents of the width n: multipliers n^-a, initial sizes n^-b, learning rates n^-c (Everett et al., 2407.05872).

A layer computes n^-a W h with W of standard deviation n^-b, and is trained at the learning rate n^-c. Given a and b,
the largest learning rates that keep activations and logits from growing with n are the solution of a linear program.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from normc.errors import NormcError
from normc.recipe.exponents.linear import Least, minimise_sum

Layer = Literal["embedding", "hidden", "readout"]
Rule = Literal["sgd", "adam", "adafactor"]
_ZERO, _HALF, _ONE = Fraction(0), Fraction(1, 2), Fraction(1)


class Layers(NamedTuple):
    """One exponent for each kind of layer."""

    embedding: Fraction
    hidden: Fraction
    readout: Fraction


class Alignment(NamedTuple):
    """How much of n a product sums up coherently, as exponents of n: 1/2 for independent factors, 1 for aligned ones.

    alpha: updates with initial activations; u: updates with changes of activations; omega: initial weights with
    changes of activations (section 3.2). `omega_readout` is omega of the last layer, where that differs: muP takes 1.
    """

    alpha: Fraction
    u: Fraction
    omega: Fraction
    omega_readout: Fraction | None = None


class Parameterisation(NamedTuple):
    """a and b of each kind of layer."""

    multiplier: Layers
    init: Layers


PARAMETERISATIONS: Mapping[str, Parameterisation] = {
    "standard": Parameterisation(Layers(_ZERO, _ZERO, _ZERO), Layers(_ZERO, _HALF, _HALF)),
    "ntk": Parameterisation(Layers(_ZERO, _HALF, _HALF), Layers(_ZERO, _ZERO, _ZERO)),
    "mup": Parameterisation(Layers(-_HALF, _ZERO, _HALF), Layers(_HALF, _HALF, _HALF)),
    "mean-field": Parameterisation(Layers(_ZERO, _HALF, _ONE), Layers(_ZERO, _ZERO, _ZERO)),
}
ALIGNMENTS: Mapping[str, Alignment] = {
    "full": Alignment(_ONE, _ONE, _HALF),
    "none": Alignment(_HALF, _HALF, _HALF),
}


class Factors(NamedTuple):
    """What a layer's multiplier, initial deviation, learning rate and epsilon are multiplied by."""

    multiplier: float
    init: float
    lr: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class Exponents:
    """a, b, c, g and r of each kind of layer, all as exponents of 1/n.

    `rate` is c. `gradient` is g: a gradient has RMS n^-g at initialisation, and Adam's epsilon must follow it
    (section 4.3). `change` is r: activations after the layer change by n^-r a step, 0 being as much as is stable.
    """

    multiplier: Layers
    init: Layers
    rate: Layers
    gradient: Layers
    change: Layers

    def factors(self, layer: Layer, width: float, base: float = 1.0) -> Factors:
        """For a model of `width`, relative to one of width `base` (where learning rates were tuned)."""
        if layer not in get_args(Layer):
            raise NormcError(f"there is no kind of layer {layer!r}", f"known: {', '.join(get_args(Layer))}")
        if not (0 < width < float("inf") and 0 < base < float("inf")):
            raise NormcError(f"a width of {width} against {base} means nothing", "give positive numbers")
        every = (self.multiplier, self.init, self.rate, self.gradient)
        return Factors(*((width / base) ** -float(getattr(one, layer)) for one in every))


def exponents(
    parameterisation: str | Parameterisation = "standard",
    optimizer: str = "adam",
    alignment: str | Alignment = "full",
) -> Exponents:
    """The largest stable learning rates of a parameterisation (2407.05872, table 1 and appendix B).

    parameterisation  "standard", "ntk", "mup", "mean-field", or exponents of your own
    optimizer         "sgd"; "adam" (any whose update's entries have size 1: sign, Lion); "adafactor" (any whose update
                      is multiplied by the RMS of the parameter)
    alignment         "full", "none", or exponents of your own

    NormcError for an unknown name, for a parameterisation that isn't stable at initialisation, and where no learning
    rates are the largest.
    """
    own = parameterisation if isinstance(parameterisation, Parameterisation) else None
    chosen = own or PARAMETERISATIONS[_known("parameterisation", str(parameterisation), PARAMETERISATIONS)]
    aligned = alignment if isinstance(alignment, Alignment) else ALIGNMENTS[_known("alignment", alignment, ALIGNMENTS)]
    _known("kind of optimizer", optimizer, dict.fromkeys(get_args(Rule)))
    return _solved(chosen, optimizer, aligned)


def gradients(parameterisation: Parameterisation) -> Layers:
    """g: gradients at initialisation have RMS n^-g, from the readout's multiplier and the layer's own.

    dL/dh of the last hidden layer is n^-(a + b) of the readout, and hidden layers pass that on unchanged.
    """
    a, b = parameterisation
    behind = a.readout + b.readout
    return Layers(behind + a.embedding, behind + a.hidden, a.readout)


def _known(kind: str, name: str, known: Mapping[str, object]) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise NormcError(f"there is no {kind} {name!r}", f"{guess}known: {', '.join(known)}")


@lru_cache(maxsize=256)
def _solved(parameterisation: Parameterisation, optimizer: str, alignment: Alignment) -> Exponents:
    a, b = parameterisation
    if a.embedding + b.embedding != 0 or a.hidden + b.hidden != _HALF or a.readout + b.readout < _HALF:
        raise NormcError(
            "activations of that parameterisation grow or vanish with the width before any step",
            "a + b must be 0 for the embedding, 1/2 for hidden layers, and at least 1/2 for the readout",
        )
    changes = _changes(a, b, _updates(a, b, optimizer), alignment)
    rate = Layers(*minimise_sum(changes))
    return Exponents(a, b, rate, gradients(parameterisation), Layers(*(change.at(rate) for change in changes)))


def _updates(a: Layers, b: Layers, optimizer: str) -> tuple[Least, Least, Least]:
    """Of each layer, the exponent of its update's entries: c, and what the optimizer multiplies the rate by."""
    c = [Least.variable(place, 3) for place in range(3)]
    if optimizer == "adam":
        return c[0], c[1], c[2]
    if optimizer == "adafactor":
        return c[0] + b.embedding, c[1] + b.hidden, c[2] + b.readout
    # A gradient is as large as what the readout passes back: its initial weights, or what it has learnt by then.
    learnt = c[2] + 2 * a.readout
    behind = Least.constant(a.readout + b.readout, 3) & learnt
    return c[0] + (behind + a.embedding), c[1] + (behind + a.hidden), c[2] + a.readout


def _changes(
    a: Layers, b: Layers, update: tuple[Least, Least, Least], alignment: Alignment
) -> tuple[Least, Least, Least]:
    """r of each layer: the largest of what its update does to old and new activations, and its weights to new ones."""
    alpha, u, omega, omega_readout = alignment
    first = update[0] + a.embedding
    moved = update[1] + a.hidden
    second = (moved - alpha) & (moved + first - u) & (first + (_HALF - omega))
    moved = update[2] + a.readout
    last = omega if omega_readout is None else omega_readout
    third = (moved - alpha) & (moved + second - u) & (second + (a.readout + b.readout - last))
    return first, second, third
