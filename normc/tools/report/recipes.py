"""What recipes there are: a line each, and the stages of one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass, replace
from functools import lru_cache

import sympy
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normc.errors import NormcError
from normc.plans.row import Role, Row, Scale, Use
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Recipe
from normc.recipe.stages.build import Stage

# One row of each kind: its shape, and which axes are fan-out, fan-in, window and stack.
_SAMPLES: dict[Role, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "hidden": ((1024, 1024), (0,), (1,), ()),
    "input": ((1024, 1024), (0,), (1,), ()),
    "output": ((1024, 1024), (0,), (1,), ()),
    "router": ((1024, 1024), (0,), (1,), ()),
    "embedding": ((1024, 1024), (1,), (0,), ()),
    "position": ((1024, 1024), (1,), (0,), ()),
    "depthwise": ((1024, 1, 3, 3), (), (1,), (2, 3)),
    "gain": ((1024,), (0,), (), ()),
    "bias": ((1024,), (0,), (), ()),
    "token": ((1, 1, 1024), (2,), (), ()),
    "state": ((1024, 1024), (), (), ()),
    "scalar": ((), (), (), ()),
}


def listing() -> RenderableType:
    """Every recipe: what it does, its formula, its state, what it assumes, its options and where it is from."""
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for name in recipes:
        recipe = recipes[name]
        grid.add_row(Text(name, style="bold"), Text(recipe.summary))
        for head, text in _facts(recipe):
            grid.add_row(Text(head, style="dim"), Text(text))
    for name, (own, why) in recipes.aliases.items():
        grid.add_row(Text(name, style="bold"), Text(f"{own}: {why}"))
    more = "\n--show NAME prints a recipe's stages; --polynomials what Newton-Schulz guarantees"
    return Group(grid, Text(more, style="dim"))


def _facts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield "formula", recipe.formula
    yield "state", state_of(recipe)
    if recipe.assumes:
        yield "assumes", recipe.assumes
    if recipe.known:
        yield "options", ", ".join(f"{key} {_values(recipe, key)}" for key in recipe.known)
    lr = recipe.own_lr()
    groups = [f"lr {'to be given' if lr is None else f'{lr:g}'}"]
    yield "groups", ", ".join(groups + [f"{key} {_both(recipe, key)}" for key in recipe.defaults[0]])
    yield "source", recipe.source


def _values(recipe: Recipe, option: str) -> str:
    """Return an option's default, and behind it the other values that it can have, if it is a name."""
    default = str(recipe.known[option])
    return "|".join([default, *(value for value in recipe.choices_of(option) if value != default)])


def _both(recipe: Recipe, key: str) -> str:
    found = dict.fromkeys(f"{values[key]:g}" for values in recipe.defaults)
    return " / ".join(found)


def state_of(recipe: Recipe) -> str:
    """`4 B a parameter` or, where matrices differ from the rest, both."""
    matrix, vector = (_bytes(recipe, role) for role in ("hidden", "bias"))
    if matrix == vector:
        return f"{matrix} a parameter"
    return f"{matrix} a parameter of a matrix (1024 x 1024), {vector} of a vector"


def _bytes(recipe: Recipe, role: Role) -> str:
    row = sample(recipe, role)
    return f"{recipe.state_bytes(row) / row.numel:.3g} B"


def show(name: str) -> RenderableType:
    """The stages of a recipe's chains, one for each kind of row. NormcError for no such recipe."""
    recipe = recipes[name]
    parts: list[RenderableType] = [Text.assemble((name, "bold"), f"  {recipe.summary}"), Text("")]
    for rule, roles in chains(recipe).items():
        grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        for stage in recipe.stages(rule):
            grid.add_row(Text(f"  {stage.kind}", style="dim"), Text(written(stage)), Text(formula_of(stage)))
        parts += [Text.assemble((rule, "bold"), ("  for " + ", ".join(roles), "dim")), grid, Text("")]
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for head, text in _facts(recipe):
        facts.add_row(Text(head, style="dim"), Text(text))
    return Group(*parts, facts)


def written(stage: Stage) -> str:
    """`Decay(scaled=True)`: a stage and what isn't its default; polynomials by their number."""
    parts: list[str] = []
    known: tuple[Field[object], ...] = fields(stage) if is_dataclass(stage) else ()
    for own in known:
        value = getattr(stage, own.name)
        if value == own.default:
            continue
        shown = f"{len(value)} polynomials" if own.name == "polynomials" else f"{own.name}={value!r}"
        parts.append(shown)
    return f"{type(stage).__name__}({', '.join(parts)})"


def formula_of(stage: Stage) -> str:
    """What a stage does: its formula, as its `emit` says it."""
    return (inspect.getdoc(stage.emit) or "").split("\n")[0].rstrip(".")


def chains(recipe: Recipe) -> dict[str, list[str]]:
    """The roles that each rule is for."""
    found: dict[str, list[str]] = {}
    for role in _SAMPLES:
        found.setdefault(sample(recipe, role).rule, []).append(role)
    return found


def sample(recipe: Recipe, role: Role) -> Row:
    """A row of that role as the recipe has it. NormcError for a role without a sample."""
    row = _draft(role)
    chosen = recipe.seeing([row]).geometry(row)
    return replace(row, norm=chosen.norm, rule=chosen.rule, target=chosen.target, scale=row.scaled(chosen.formula))


@lru_cache
def _draft(role: Role) -> Row:
    if role not in _SAMPLES:
        raise NormcError(f"there is no sample of a {role}", f"known: {', '.join(_SAMPLES)}")
    shape, outs, ins, kernel = _SAMPLES[role]
    fan_in, fan_out = (math.prod(shape[axis] for axis in axes) for axes in ((*ins, *kernel), outs))
    use = Use(role, "", "", "", ())
    return Row(
        name=role, aliases=(), shape=shape, dtype="float32", role=role, uses=(use,), fan_in=fan_in, fan_out=fan_out,
        in_axes=ins, out_axes=outs, block_axes=(), kernel_axes=kernel, blocks=(), norm="", rule="none", mass=0.1,
        sensitivity=1.0, magnitude=1.0, scale=Scale(sympy.Integer(0), (0.0,)), target=0.0, state_bytes=0, evidence=(),
    )  # fmt: skip
