"""What a recipe is: which norm, radius and chain of stages a row gets. The recipes themselves are a file each."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, cast

import sympy
import torch

from normc.errors import NormcError
from normc.plans.convention import CONVENTIONS, Convention
from normc.plans.geometry import NORMED, Geometry, norms
from normc.plans.row import Row, Scale
from normc.recipe.stages.apply import DECAYS
from normc.recipe.stages.build import Stage, chain_of
from normc.update.polynomials.by_name import families, polynomials
from normc.update.polynomials.minimax import Coefficients
from normc.update.program.storage import PLAIN, Storage
from normc.update.runtime.codes import blocks_of

Option = str | int | float | bool | None
Values = dict[str, float]

# The values of options that several recipes have. A polynomial's may have its own options after a colon.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "decay": tuple(DECAYS),
    "gains": CONVENTIONS,
    "polynomial": tuple(families),
}


@dataclass(frozen=True)
class Recipe(ABC):
    """A rule from a row's role to its update. Subclasses say the ClassVars and override the methods below.

    `assumes` says what the model or the training must be like for the recipe to be right, if anything.

    `options` are fixed when a plan is made; `defaults` are values of the two parameter groups (matrices, the rest) that
    may change while training. Both groups have the same keys. `lr` is the learning rate where none is given; None
    means that one has to be given. `normed` are the rules whose step is as large as a unit step of the row's norm.

    `choices` are the values of each option that is a name; those in CHOICES need no entry. An option with neither takes
    any text.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    formula: ClassVar[str]
    known: ClassVar[Mapping[str, Option]]
    defaults: ClassVar[tuple[Values, ...]]
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    assumes: ClassVar[str] = ""
    lr: ClassVar[float | None] = None
    normed: ClassVar[tuple[str, ...]] = NORMED

    options: Mapping[str, Option] = field(default_factory=dict)

    def __init_subclass__(cls) -> None:
        """A learning rate isn't inherited: another rule needs another."""
        super().__init_subclass__()
        cls.lr = vars(cls).get("lr")

    def own_lr(self) -> float | None:
        """The learning rate where none is given; None if one has to be."""
        return type(self).lr

    def configure(self, **options: Option) -> Recipe:
        """Return this recipe with some options set. NormcError for an unknown one, or a value that it can't have."""
        merged = dict(self.options)
        for name, value in options.items():
            if name not in self.known:
                raise NormcError(f"the recipe {self.name} has no option {name!r}", _known(name, sorted(self.known)))
            merged[name] = _checked(self.name, name, value, self.known[name], self.choices_of(name))
        made = replace(self, options=merged)
        if {"polynomial", "ns_steps"} <= self.known.keys():
            made.steps()  # refuses what a polynomial can't be, used or not
        return made

    def choices_of(self, option: str) -> tuple[str, ...]:
        """Return the values of an option that is a name; none if it is a number, or takes any text."""
        return self.choices.get(option, CHOICES.get(option, ())) if isinstance(self.known[option], str) else ()

    def option(self, name: str) -> Option:
        """An option's value, or its default."""
        return self.options.get(name, self.known[name])

    def number(self, name: str) -> float:
        """An option that is a number."""
        value = self.option(name)
        assert isinstance(value, int | float)
        return float(value)

    def whole(self, name: str) -> int:
        """An option that counts steps. NormcError unless it is a whole number from 1 on."""
        value = self.number(name)
        if value < 1 or value % 1:
            raise NormcError(f"{name} can't be {value}", "give a whole number of steps")
        return int(value)

    def text(self, name: str) -> str:
        """An option that is a name."""
        return str(self.option(name))

    @property
    def gains(self) -> Convention:
        """How local gains become sensitivities: as the recipe's option `gains` says, if it has one."""
        return cast("Convention", self.text("gains") if "gains" in self.known else "average")

    def steps(self) -> tuple[Coefficients, ...]:
        """Return the steps of Newton-Schulz that the options `polynomial` and `ns_steps` say."""
        return polynomials(self.text("polynomial"), int(self.number("ns_steps")))

    def mass_of(self, what: str, default: float) -> float:
        """The option `<what>_mass`, as `blocks_mass` or `vector_mass`, if the recipe has it; else the default."""
        return self.number(f"{what}_mass") if f"{what}_mass" in self.known else default

    def seeing(self, rows: Iterable[Row], blocks: int = 0) -> Recipe:
        """This recipe for a plan of these drafts, of a model of so many blocks (0: not known); the same, unless it
        needs to know. What is to be known of a saved plan as well becomes an option.
        """
        return self

    @abstractmethod
    def geometry(self, row: Row) -> Geometry:
        """Norm, rule, radius and scale of a row whose role, axes and blocks are final."""

    @abstractmethod
    def stages(self, rule: str) -> tuple[Stage, ...]:
        """The chain of stages called `rule`; none for "none"."""

    def state_bytes(self, row: Row, kept: Storage = PLAIN) -> int:
        """Bytes of state that a row with its rule set will hold, kept like this: read off its chain."""
        if row.rule == "none" or row.numel == 0:
            return 0
        return _state_bytes(self.stages_of(row), _bare(row), kept.state)

    def stages_of(self, row: Row) -> tuple[Stage, ...]:
        """The stages that update a row."""
        return self.stages(row.rule)

    def sphere(self, row: Row) -> sympy.Expr:
        """What the norm of a row's weights is at their start, with the norm's geometric factor: radius 1."""
        return norms[row.norm].scale

    def member(self, row: Row) -> Recipe:
        """The recipe that has a row: this one, unless it is several."""
        return self

    def decays(self, row: Row) -> bool:
        """Whether a row's weights are decayed by its group's weight_decay."""
        return any("weight_decay" in values for values in self.member(row).defaults)

    def group_of(self, row: Row) -> int:
        """A row's parameter group, a place in `defaults`: 0 for what a norm of matrices updates, 1 for the rest."""
        return 0 if row.rule != "none" and norms[row.norm].shape in ("matrix", "slices") else 1

    @property
    def labels(self) -> tuple[str, ...]:
        """Of each parameter group, the name of the recipe that it is of."""
        return (self.name,) * len(self.defaults)


class EntryByEntry(Recipe):
    """A recipe whose one chain, called as the recipe is, updates every row alike, entry by entry."""

    reason: ClassVar[str] = "every entry by itself"

    def geometry(self, row: Row) -> Geometry:
        """The same for every role, but for what no gradient reaches."""
        if row.role == "unused":
            return Geometry("sign", "none", 0.0, sympy.Integer(0), "no gradient reaches it")
        return Geometry("sign", self.name, 1.0, sympy.Integer(1), self.reason)

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """One chain."""
        if rule not in (self.name, "none"):
            raise NormcError(f"the recipe {self.name} has no rule {rule!r}", f"known: {self.name}, none")
        return self.chain() if rule == self.name else ()

    @abstractmethod
    def chain(self) -> tuple[Stage, ...]:
        """The stages of every row."""


def _bare(row: Row) -> Row:
    """A row without what its states don't depend on, so that rows alike are counted once."""
    ranks = {value: rank for rank, value in enumerate(dict.fromkeys(row.scale.per_block))}
    scale = Scale(sympy.Integer(1), tuple(float(ranks[value] + 2) for value in row.scale.per_block))
    return replace(
        row, name="", aliases=(), uses=(), evidence=(), mass=None, sensitivity=None, magnitude=None, target=2.0,
        scale=scale, state_bytes=0, fallback=None,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _state_bytes(stages: tuple[Stage, ...], row: Row, narrow: torch.dtype | None) -> int:
    total = 0
    for node in (node for node in chain_of(row, stages).nodes if "state" in node.meta):
        kind = node.meta["state"]
        if kind == "count":
            total += 4
        elif narrow is torch.int8 and node.meta.get("average"):
            total += row.numel + 4 * blocks_of(row.numel)
        else:
            width = 2 if narrow is torch.bfloat16 and kind == "like" else state_width(row)
            total += width * entries_of(kind, row.numel)
    return total


def entries_of(kind: str, numel: int) -> int:
    """How many entries a state has beside the gradient: "like" the parameter's, none for "grad", or as "3x64" says."""
    if kind == "grad":
        return 0
    return numel if kind == "like" else math.prod(map(int, kind.split("x")))


def _checked(recipe: str, name: str, value: Option, default: Option, choices: tuple[str, ...]) -> Option:
    """Return `value`, if it is one of `choices`; without any, if it is of the default's type: any number for a number,
    a whole one for a whole one, text for text. NormcError for another.
    """
    if choices:
        head = value.partition(":")[0].strip() if isinstance(value, str) and name == "polynomial" else value
        if head not in choices:
            raise NormcError(f"option {name} of the recipe {recipe} can't be {value!r}", _known(head, choices))
        return value
    same = isinstance(value, bool) == isinstance(default, bool)
    if isinstance(default, int | float) and isinstance(value, int | float) and same:
        if not abs(value) < float("inf"):
            raise NormcError(f"option {name} of the recipe {recipe} is {value}", "give a finite number")
        if isinstance(default, int) and value != int(value):
            raise NormcError(f"option {name} of the recipe {recipe} can't be {value}", "give a whole number")
        return value
    if isinstance(default, str) and isinstance(value, str):
        return value
    raise NormcError(
        f"option {name} of the recipe {recipe} can't be {value!r}", f"give one like its default, {default!r}"
    )


def _known(given: Option, known: Sequence[str]) -> str:
    """Return the fix for a name that isn't known: the nearest, and all."""
    near = difflib.get_close_matches(given, known, n=1) if isinstance(given, str) else ()
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}known: {', '.join(known)}"


def state_width(row: Row) -> int:
    """Bytes of one entry of a row's state: 8 for a float64 parameter, else 4."""
    return 8 if row.dtype == "float64" else 4
