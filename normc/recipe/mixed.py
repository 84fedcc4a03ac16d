"""Several recipes in one plan: one for all rows, others for some roles or for what globs match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import sympy

from normc.arguments import by_text, instance, mapping
from normc.errors import NormcError
from normc.plans.row import ROLES, Row
from normc.recipe.recipe import Option, Recipe

if TYPE_CHECKING:
    from normc.plans.convention import Convention
    from normc.plans.geometry import Geometry
    from normc.recipe.stages.build import Stage
    from normc.registry import Registry

_FIX = "write 'muon, output=adamw, *.wte.*=lion': a recipe for all, then selector=recipe (a role or a glob)"


def spelled(recipe: str | Mapping[str, str]) -> str:
    """A recipe's name, or of {"*": "muon", "output": "adamw"} the text `muon, output=adamw`. NormcError without "*"."""
    if isinstance(recipe, str):
        return recipe
    for selector, name in by_text("recipe", mapping("recipe", recipe, _FIX), _FIX).items():
        instance(f"the recipe of {selector!r}", name, str, _FIX)
        if "," in selector or "=" in selector or "," in name or "=" in name:
            raise NormcError(f"{selector!r}: {name!r} can't be spelled in a recipe's name", "use globs without , and =")
    rest = [(selector, name) for selector, name in recipe.items() if selector != "*"]
    if "*" not in recipe:
        raise NormcError(f"the recipes {dict(recipe)!r} leave out what no selector matches", 'give one for "*"')
    return ", ".join([recipe["*"], *(f"{selector}={name}" for selector, name in rest)])


@dataclass(frozen=True)
class Mixed(Recipe):
    """The first member has every row that no other selects; of several that do, the last.

    Its parameter groups are those of each recipe, matrices and the rest. An option `muon.ns_steps` is one member's,
    `ns_steps` that of every member that knows it.
    """

    selectors: tuple[str, ...] = ()
    members: tuple[Recipe, ...] = field(default=())

    def __post_init__(self) -> None:
        """Names and defaults are those of the members."""
        own: dict[str, Any] = {
            "name": ", ".join(
                f"{selector}={member.name}" if selector != "*" else member.name
                for selector, member in zip(self.selectors, self.members, strict=True)
            ),
            "summary": "several recipes, each for some of the rows",
            "source": "; ".join(dict.fromkeys(member.source for member in self.members)),
            "formula": "; ".join(dict.fromkeys(f"{member.name}: {member.formula}" for member in self.members)),
            "known": {name: value for member in self.members for name, value in member.known.items()},
            "choices": {name: member.choices_of(name) for member in self.members for name in member.known},
            "defaults": tuple(values for member in self.distinct() for values in member.defaults),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def distinct(self) -> list[Recipe]:
        """The members, each recipe once."""
        return list({member.name: member for member in self.members}.values())

    def configure(self, **options: Option) -> Recipe:
        """Each option goes to the member it names, or to all that know it. NormcError if none does."""
        members = list(self.members)
        for given, value in options.items():
            owner, dot, name = given.rpartition(".")
            chosen = [
                index
                for index, member in enumerate(members)
                if (member.name == owner if dot else given in member.known)
            ]
            if not chosen:
                known = ", ".join(sorted({f"{member.name}.{key}" for member in members for key in member.known}))
                raise NormcError(f"the recipe {self.name} has no option {given!r}", f"known: {known}")
            for index in chosen:
                members[index] = members[index].configure(**{name: value})
        return replace(self, members=tuple(members), options={**self.options, **options})

    @property
    def gains(self) -> Convention:
        """Those of the first member."""
        return self.members[0].gains

    def mass_of(self, what: str, default: float) -> float:
        """As the first member has it."""
        return self.members[0].mass_of(what, default)

    def seeing(self, rows: Iterable[Row], blocks: int = 0) -> Recipe:
        """Each member with what it needs to know of the model. NormcError for a selector that no row answers to."""
        rows = list(rows)
        for selector in self.selectors:
            if not any(_selects(selector, row) for row in rows):
                raise NormcError(
                    f"no parameter is {selector!r}, which {self.name!r} selects",
                    f"give a glob of names, or one of the roles {', '.join(sorted({row.role for row in rows}))}",
                )
        members = tuple(member.seeing(rows, blocks) for member in self.members)
        seen = {
            f"{new.name}.{name}": value
            for old, new in zip(self.members, members, strict=True)
            for name, value in new.options.items()
            if old.option(name) != value
        }
        return replace(self, members=members, options={**self.options, **seen})

    def index_of(self, row: Row) -> int:
        """The member that has a row."""
        return max(index for index, selector in enumerate(self.selectors) if _selects(selector, row))

    def member(self, row: Row) -> Recipe:
        """As `index_of`, the recipe itself."""
        return self.members[self.index_of(row)]

    def group_of(self, row: Row) -> int:
        """Each recipe's groups follow those of the one before it."""
        member, before = self.member(row), 0
        for other in self.distinct():
            if other.name == member.name:
                break
            before += len(other.defaults)
        return before + member.group_of(row)

    def geometry(self, row: Row) -> Geometry:
        """The member's."""
        return self.member(row).geometry(row)

    def sphere(self, row: Row) -> sympy.Expr:
        """The member's."""
        return self.member(row).sphere(row)

    def stages_of(self, row: Row) -> tuple[Stage, ...]:
        """The member's."""
        return self.member(row).stages_of(row)

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """Those of the first member that has the rule."""
        for member in self.members:
            try:
                return member.stages(rule)
            except NormcError:
                continue
        raise NormcError(f"none of {self.name} has a rule {rule!r}", "give a rule of one of them")

    @property
    def labels(self) -> tuple[str, ...]:
        """The recipes' names, each once for each of its groups."""
        return tuple(member.name for member in self.distinct() for _ in member.defaults)


def _selects(selector: str, row: Row) -> bool:
    if selector == "*":
        return True
    if selector in ROLES:
        return row.role == selector
    return any(fnmatchcase(name, selector) for name in (row.name, *row.aliases))


def read_mixed(text: str, known: Registry[Recipe]) -> Mixed:
    """The recipe that `muon, output=adamw` says. NormcError for what doesn't say one."""
    selectors: list[str] = []
    members: list[Recipe] = []
    for place, part in enumerate(re.split(r"\s*,\s*", text.strip())):
        selector, equals, name = part.rpartition("=")
        if (not equals) != (place == 0) or (equals and not selector) or not name:
            raise NormcError(f"{text!r} is no recipe", _FIX)
        if equals and selector not in ROLES and "*" not in selector and "." not in selector and selector.isalpha():
            raise NormcError(
                f"{selector!r} in {text!r} is no role", f"known: {', '.join(ROLES)}; or give a glob: '*{selector}*'"
            )
        selectors.append(selector or "*")
        members.append(known[name])
    return Mixed(selectors=tuple(selectors), members=tuple(members))
