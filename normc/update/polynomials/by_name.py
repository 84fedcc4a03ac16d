"""Newton-Schulz polynomials by name: (a, b, c) per step, for singular values that start in (0, 1].

A text names them, with options after a colon: "keller", "polar-express", "minimax:lower=1e-4,tolerance=0.1".
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from normc.errors import NormcError
from normc.update.polynomials.composition import LOWER, Auto, Polynomial, composed, counted, polar
from normc.update.polynomials.minimax import FLAT, Coefficients, stretched

# Keller Jordan's, as in torch.optim.Muon: steep at zero, and never closer to one than .3.
KELLER: Coefficients = (3.4445, -4.7750, 2.0315)


def _exact(steps: int) -> Polynomial:
    return Polynomial("exact", (), LOWER, ())


def _keller(steps: int, lower: float = LOWER) -> Polynomial:
    return composed("keller", (KELLER,) * counted(steps), lower)


def _newton_schulz(steps: int, degree: int = 5, lower: float = LOWER) -> Polynomial:
    if degree not in FLAT:
        raise NormcError(f"Newton-Schulz has no step of degree {degree}", "give degree 3 or 5")
    return composed("newton-schulz", (FLAT[degree],) * counted(steps), lower)


def _polar_express(steps: int, lower: float = LOWER, safety: float = 1.02, cushion: float = 0.02) -> Polynomial:
    """The paper's chain with a safety factor inside, and its input divided by that factor too, as its users run it."""
    made = polar(5, steps, None, lower, safety, cushion)
    return composed("polar-express", (stretched(made.steps[0], safety), *made.steps[1:]), lower)


def _cans(
    steps: int | Auto, degree: int = 5, tolerance: float | None = None, lower: float | Auto = "auto"
) -> Polynomial:
    return polar(degree, steps, tolerance, lower, name="cans")


def _minimax(
    steps: int | Auto,
    degree: int = 5,
    tolerance: float | None = None,
    lower: float | Auto = LOWER,
    safety: float = 1.0,
    cushion: float = 0.0,
) -> Polynomial:
    return polar(degree, steps, tolerance, lower, safety, cushion)


@dataclass(frozen=True, slots=True)
class Family:
    """Polynomials that one name stands for: what they are, from where, and how they are made for a number of steps."""

    summary: str
    source: str
    make: Callable[..., Polynomial]

    @property
    def options(self) -> dict[str, object]:
        """What may be said of them after the name, with defaults."""
        known = inspect.signature(self.make).parameters
        return {name: None if value.default is value.empty else value.default for name, value in known.items()}


families: dict[str, Family] = {
    "exact": Family("every singular value one, by an SVD in float64", "the definition", _exact),
    "keller": Family("steep at zero, within about .3 of one", "Keller Jordan's Muon; torch.optim.Muon", _keller),
    "polar-express": Family("closest to one on [lower, 1], made safe for bf16", "arXiv 2505.16932", _polar_express),
    "cans": Family("steepest at zero within a tolerance; with lower, closest to one", "arXiv 2506.10935", _cans),
    "newton-schulz": Family("flat at one: slow at first, exact in the end", "Björck and Bowie 1971", _newton_schulz),
    "minimax": Family("closest to one on [lower, 1], for the numbers given", "as arXiv 2505.16932", _minimax),
}


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@lru_cache(maxsize=256)
def polynomial(text: str, steps: int) -> Polynomial:
    """The polynomials that a text names, `steps` of them: "keller", "minimax:lower=1e-4,tolerance=0.1".

    `steps=` in the text goes before `steps`. A tolerance without steps chooses their number, where lower is a number.
    NormcError for an unknown name or option, for one out of range, and for a tolerance that can't be met.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if name not in families:
        raise NormcError(f"no polynomial is called {name!r}", f"{_near(name, families)}known: {', '.join(families)}")
    known = families[name].options
    given: dict[str, object] = {}
    for item in rest.split(",") if colon else ():
        key, equals, word = (part.strip() for part in item.partition("="))
        if key not in known or not equals:
            raise NormcError(
                f"the polynomial {name} has no option {key!r}",
                f"{_near(key, known)}known: {', '.join(known)}",
            )
        if key in given:
            raise NormcError(f"the polynomial {name} is given {key} twice", "give it once")
        given[key] = _value(name, key, word)
    chosen = "tolerance" in given and given.get("lower", known.get("lower")) != "auto"
    return families[name].make(**{"steps": "auto" if chosen else steps, **given})


def polynomials(text: str, steps: int) -> tuple[Coefficients, ...]:
    """The coefficients (a, b, c) of each step of `polynomial`; none for "exact"."""
    return polynomial(text, steps).steps


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _value(name: str, key: str, word: str) -> object:
    if word == "auto" and key in ("steps", "lower"):
        return word
    if not _NUMBER.fullmatch(word):
        raise NormcError(f"{key} of the polynomial {name} can't be {word!r}", "give a number, as 1e-3")
    if key not in ("steps", "degree"):
        return float(word)
    if not word.isdecimal():
        raise NormcError(f"{key} of the polynomial {name} can't be {word!r}", "give a whole number")
    return int(word)
