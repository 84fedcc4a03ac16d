"""The learning rate that a recipe starts from where none is given."""

from __future__ import annotations

from normc.errors import NormcError
from normc.recipe.mixed import Mixed
from normc.recipe.recipe import Recipe


def default_lr(recipe: Recipe) -> float | dict[str, float]:
    """Return the recipe's own lr; of several recipes {recipe: lr}.

    NormcError if there is none, naming the recipes that need one.
    """
    members = recipe.distinct() if isinstance(recipe, Mixed) else [recipe]
    found = {member.name: member.own_lr() for member in members}
    lost = [name for name, lr in found.items() if lr is None]
    rates = {name: lr for name, lr in found.items() if lr is not None}
    if lost and not isinstance(recipe, Mixed):
        raise NormcError(f"the recipe {recipe.name} has no default lr", "give one: lr=...")
    if lost:
        given = ", ".join(f'"{name}": {rates.get(name, "...")}' for name in found)
        raise NormcError(f"{', '.join(lost)} in the recipe {recipe.name!r} has no default lr", f"give lr={{{given}}}")
    return rates if isinstance(recipe, Mixed) else rates[recipe.name]
