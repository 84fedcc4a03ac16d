"""Recipes by their names, by other names for them, and by texts that say several."""

from __future__ import annotations

from collections.abc import Mapping

from normc.arguments import instance
from normc.plans.plan import NormPlan
from normc.recipe.mixed import read_mixed
from normc.recipe.recipe import Recipe
from normc.registry import Registry


class Recipes(Registry[Recipe]):
    """Recipes by name, or by another name for one; and by a text that says several, as `muon, output=adamw`."""

    # Other names: the recipe that each stands for, and why. A plan keeps the recipe's own name.
    aliases: Mapping[str, tuple[str, str]] = {
        "modula-sgd": ("modula", "the package's name for it"),
    }

    def __getitem__(self, name: str) -> Recipe:
        instance("the name of a recipe", name, str, f"known: {', '.join(self)}")
        if "," in name or "=" in name:
            return read_mixed(name, self)
        return super().__getitem__(self.aliases.get(name, (name, ""))[0])


recipes = Recipes("recipe", "normc.recipe.recipes")


def recipe_of(plan: NormPlan) -> Recipe:
    """The recipe that a plan names, with the plan's options. NormcError for what is no plan."""
    instance("plan", plan, NormPlan, "give what normc.plan or normc.load returned")
    return recipes[plan.recipe].configure(**dict(plan.options))
