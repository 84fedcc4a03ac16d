"""What a run of a host is, and its registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normc.registry import Registry


@dataclass(frozen=True, slots=True)
class Job:
    """One training run: `steps` in all, a checkpoint in `folder` after half of them.

    resume    begin with what `folder` holds, at half, in the place of step 0.
    compiled  whether normc's cores go through torch.compile.
    """

    steps: int
    folder: Path
    resume: bool = False
    compiled: bool = True

    @property
    def half(self) -> int:
        """The step of the checkpoint."""
        return self.steps // 2

    def begin(self, *parts: Any, file: str = "half.pt") -> range:
        """Load model, optimizer and schedule where the run resumes; return the steps to take."""
        if self.resume:
            saved = torch.load(self.folder / file, weights_only=True)
            for part, state in zip(parts, saved, strict=True):
                part.load_state_dict(state)
        return range(self.half if self.resume else 0, self.steps)

    def keep(self, step: int, *parts: Any, file: str = "half.pt") -> None:
        """Write the checkpoint if it is due after this step."""
        if step + 1 == self.half:
            torch.save([part.state_dict() for part in parts], self.folder / file)


Train = Callable[[Job], nn.Module]


@dataclass(frozen=True, slots=True)
class Host:
    """A host, what is run in it, and the plain loop that it is compared with. All three return the trained model.

    package  the distribution whose version is given.
    needs    modules without which it can't run.
    resumes  whether `train` takes a job with `resume`.
    """

    title: str
    package: str
    needs: tuple[str, ...]
    what: str
    train: Train
    plain: Train
    resumes: bool = True

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules that aren't installed."""
        return tuple(name for name in self.needs if find_spec(name) is None)

    @property
    def version(self) -> str:
        """Of its distribution."""
        return version(self.package)


hosts: Registry[Host] = Registry("host", "benchmarks.hosts.runs")


def host(
    name: str, title: str, package: str, needs: tuple[str, ...], what: str, plain: Train, *, resumes: bool = True
) -> Callable[[Train], Train]:
    """Register a function as the run called `name`."""

    def decorate(train: Train) -> Train:
        home = getattr(train, "__module__", __name__)
        hosts.add(name, Host(title, package, needs, what, train, plain, resumes), home)
        return train

    return decorate
