"""normc: a compiler for optimizers. `compile(model)` reads every parameter's norm and scale off the model's graph."""

from normc.compiler import compile, plan
from normc.errors import NormcError, NormcWarning
from normc.export import export
from normc.optimizer import Optimizer
from normc.plan.plan import NormPlan
from normc.version import VERSION as __version__

__all__ = ["NormPlan", "NormcError", "NormcWarning", "Optimizer", "__version__", "compile", "export", "plan"]
