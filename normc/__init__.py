"""normc: a compiler for optimizers. `compile(model)` reads every parameter's norm and scale off the model's graph.

The names are imported when they are first used, so that `normc --help` needn't wait for torch.
"""

from __future__ import annotations

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

from normc import moved
from normc.version import VERSION

if TYPE_CHECKING:
    from normc import cbs as cbs
    from normc.compiler import compile as compile  # noqa: A004  # the public name
    from normc.compiler import plan as plan
    from normc.errors import NormcError as NormcError
    from normc.errors import NormcWarning as NormcWarning
    from normc.exporting import export as export
    from normc.initialise import init_ as init_
    from normc.optimizer import Optimizer as Optimizer
    from normc.plans.plan import NormPlan as NormPlan
    from normc.saving import Checkpoint as Checkpoint
    from normc.saving import load as load
    from normc.saving import save as save
    from normc.tools.check.check import check as check
    from normc.tools.check.report import CheckReport as CheckReport
    from normc.tools.report.like_adamw import lr_like_adamw as lr_like_adamw
    from normc.tools.scaling.distribution import distribution as distribution
    from normc.tools.schedule import schedule as schedule

_HOMES = {
    "compile": "compiler",
    "plan": "compiler",
    "check": "tools.check.check",
    "CheckReport": "tools.check.report",
    "export": "exporting",
    "init_": "initialise",
    "save": "saving",
    "load": "saving",
    "Checkpoint": "saving",
    "Optimizer": "optimizer",
    "NormPlan": "plans.plan",
    "NormcError": "errors",
    "NormcWarning": "errors",
    "lr_like_adamw": "tools.report.like_adamw",
    "schedule": "tools.schedule",
    "distribution": "tools.scaling.distribution",
}
_PACKAGES = ("cbs",)
__version__ = VERSION
moved.install()
__all__ = [
    "CheckReport",
    "Checkpoint",
    "NormPlan",
    "NormcError",
    "NormcWarning",
    "Optimizer",
    "__version__",
    "cbs",
    "check",
    "compile",
    "distribution",
    "export",
    "init_",
    "load",
    "lr_like_adamw",
    "plan",
    "save",
    "schedule",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name not in _PACKAGES:
        raise AttributeError(f"module 'normc' has no attribute {name!r}")
    state = random.getstate()  # rich draws from Python's generator as it is imported
    try:
        if name in _PACKAGES:
            return import_module(f"normc.{name}")
        return getattr(import_module(f"normc.{_HOMES[name]}"), name)
    finally:
        random.setstate(state)


def __dir__() -> list[str]:
    return sorted(__all__)
