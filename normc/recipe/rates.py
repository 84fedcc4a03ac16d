"""The learning rate that a recipe starts from where none is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from normc.errors import NormcError
from normc.recipe.mixed import Mixed
from normc.recipe.recipe import Recipe


class Torch(NamedTuple):
    """The lr of torch's optimizer, and the option by which the recipe is another than torch's."""

    lr: float
    dialect: str = ""


# Recipes that are equal to torch's optimizers start as these do.
_TORCH: Mapping[str, Torch] = {
    "sgd": Torch(1e-3),
    "adam": Torch(1e-3),
    "adamw": Torch(1e-3),
    "muon": Torch(1e-3, "dialect"),
    "adafactor": Torch(1e-2, "variant"),
}


def default_lr(recipe: Recipe) -> float | dict[str, float]:
    """Return the recipe's own lr, or torch's where the recipe is torch's; of several recipes {recipe: lr}.

    NormcError if there is none, naming the recipes that need one.
    """
    members = recipe.distinct() if isinstance(recipe, Mixed) else [recipe]
    found = {member.name: own_lr(member) for member in members}
    lost = [name for name, lr in found.items() if lr is None]
    rates = {name: lr for name, lr in found.items() if lr is not None}
    if lost and not isinstance(recipe, Mixed):
        raise NormcError(f"the recipe {recipe.name} has no default lr", "give one: lr=...")
    if lost:
        given = ", ".join(f'"{name}": {rates.get(name, "...")}' for name in found)
        raise NormcError(f"{', '.join(lost)} in the recipe {recipe.name!r} has no default lr", f"give lr={{{given}}}")
    return rates if isinstance(recipe, Mixed) else rates[recipe.name]


def own_lr(recipe: Recipe) -> float | None:
    """Return the lr of one recipe, its own or torch's; None if it has none."""
    torch = _TORCH.get(recipe.name)
    if recipe.lr is not None or torch is None:
        return recipe.lr
    return torch.lr if not torch.dialect or recipe.text(torch.dialect) == "torch" else None
