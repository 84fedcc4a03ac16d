"""Named parts: norms, op rules, recipes, passes, backends. A part is one file; importing it registers it."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from normc.arguments import instance, shown
from normc.errors import NormcError

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts of one kind by name. A name is taken once; an unknown name is answered with the nearest."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._parts: dict[str, T] = {}
        self._homes: dict[str, str] = {}
        self._loaded = False

    def add(self, name: str, part: T, home: str) -> None:
        """Register `part`, which lives in module `home`, under `name`."""
        if name in self._parts and self._homes[name] != home:
            raise NormcError(
                f"two parts are called {self.kind} {name!r}: one in {self._homes[name]}, one in {home}",
                "rename one of them",
            )
        self._parts[name] = part
        self._homes[name] = home

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator form of `add`; a part may answer to several names."""

        def decorate(part: T) -> T:
            for name in names:
                self.add(name, part, getattr(part, "__module__", self.kind))
            return part

        return decorate

    def load(self) -> None:
        """Import every module of the kind's package, once; importing is what registers."""
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)

    def find(self, name: str) -> T | None:
        """The part called `name`, or None."""
        if not self._loaded:
            self.load()
        return self._parts.get(name)

    def __getitem__(self, name: str) -> T:
        self.load()
        if (
            instance(f"the name of a {self.kind}", name, str, f"known: {', '.join(sorted(self._parts))}")
            not in self._parts
        ):
            near = difflib.get_close_matches(name, self._parts, n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise NormcError(
                f"no {self.kind} is called {shown(name)}", f"{guess}known: {', '.join(sorted(self._parts))}"
            )
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        self.load()
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(sorted(self._parts))

    def home(self, name: str) -> str:
        """The module that registered `name`."""
        self.load()
        return self._homes[name]
