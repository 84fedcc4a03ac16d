"""Modules by the names that they had before the wings, where a pickle or code of users may hold them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old to new; what lies in a folder follows it. Pickles of optimizers hold recipes, requests and storages.
OLD = {
    "normc.ops": "normc.model.ops",
    "normc.gains": "normc.model.gains",
    "normc.weightless": "normc.model.weightless",
    "normc.recipes": "normc.recipe.recipes",
    "normc.recipes.mixed": "normc.recipe.mixed",
    "normc.stages": "normc.recipe.stages",
    "normc.norms": "normc.recipe.norms",
    "normc.passes.request": "normc.passes.analyses.request",
    "normc.update.storage": "normc.update.program.storage",
}
# Where the names live that a folder itself handed on.
HANDED_ON = {
    "normc.ops": ("normc.model.ops.call", "normc.model.ops.value"),
    "normc.recipes": ("normc.recipe.by_name", "normc.recipe.recipe"),
}


class OldNames(MetaPathFinder, Loader):
    """Asked first, since an older normc may be installed beside this one: it answers for the names of `OLD` alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old name."""
        return ModuleSpec(fullname, self) if fullname.startswith("normc.") and _new(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        """A module is the one that has the new name; a folder is a stand-in, lest a file be read a second time."""
        name = module.__name__
        found = import_module(_new(name))
        if not hasattr(found, "__path__"):
            sys.modules[name] = found
            return

        def handed_on(attribute: str) -> Any:
            for home in HANDED_ON.get(name, ()):
                if hasattr(import_module(home), attribute):
                    return getattr(import_module(home), attribute)
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")

        module.__path__ = []
        vars(module)["__getattr__"] = handed_on


def _new(name: str) -> str:
    at = name
    while at:
        if at in OLD:
            return OLD[at] + name[len(at) :]
        at = at.rpartition(".")[0]
    return ""


def install() -> None:
    """Answer for the old names from now on."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
