"""What an entry of the gallery is: a model, the rows that are right for it, and the threads that speak of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from normc.model.weightless import without_weights
from tests.zoo.case import Case, tokens


class Report(NamedTuple):
    """A thread of a repository on GitHub, and in one sentence what its users found there."""

    repository: str
    number: int
    found: str
    kind: str = "issues"

    @property
    def link(self) -> str:
        """The thread as a link in Markdown."""
        return f"[{self.repository} #{self.number}](https://github.com/{self.repository}/{self.kind}/{self.number})"


def issue(repository: str, number: int, found: str) -> Report:
    """An issue."""
    return Report(repository, number, found)


def pull(repository: str, number: int, found: str) -> Report:
    """A pull request."""
    return Report(repository, number, found, "pull")


@dataclass(frozen=True)
class Entry:
    """One page.

    `case` builds the model, feeds it and says what every row has to be, in the notation of the zoo, with the norms of
    the recipe `muon`. `rows` are globs of the rows that the threads are about. `built` says where the model comes from.
    `heads` plans with every attention head a block.
    """

    title: str
    case: Case
    rows: tuple[str, ...]
    built: str
    says: str
    reports: tuple[Report, ...]
    heads: bool = False


def released(name: str, **sizes: Any) -> Callable[[], nn.Module]:
    """Build a model of transformers at its configuration's own shape, but for `sizes`; its weights are on meta."""

    def build() -> nn.Module:
        kind = getattr(importlib.import_module("transformers"), name)
        return without_weights(lambda: kind(kind.config_class(**sizes)))

    return build


def text(length: int = 8) -> dict[str, Tensor]:
    """Token ids, [2, length], by the name that transformers give them."""
    return {"input_ids": tokens(length)}


LINEAR = "hidden oi spectral"
TRANSFORMERS = "transformers' `{}` at the shape of its default configuration ({}), without weights"
SHARED = "transformers' `{}` at the width of its default configuration ({}), without weights"
PLAIN = "plain PyTorch in [{0}](../../benchmarks/gallery/{0}), a few lines that do what {1} does"
