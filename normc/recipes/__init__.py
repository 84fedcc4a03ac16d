"""Recipes, one file each: which norm, radius and chain of stages a row gets. Importing a file registers its recipe."""

from normc.recipes.by_name import Recipes as Recipes
from normc.recipes.by_name import recipes as recipes
from normc.recipes.recipe import EntryByEntry as EntryByEntry
from normc.recipes.recipe import Option as Option
from normc.recipes.recipe import Recipe as Recipe
from normc.recipes.recipe import Values as Values
from normc.recipes.recipe import entries_of as entries_of
from normc.recipes.recipe import state_width as state_width
