"""What a run of a host is, and its registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

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
