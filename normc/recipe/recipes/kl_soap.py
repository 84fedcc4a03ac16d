"""KL-SOAP: Adam in the eigenbases of factors that have whitened each other (Lin et al., arXiv 2509.03378)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from normc.errors import NormcError
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Values
from normc.recipe.recipes.soap import BASES, Soap, bases
from normc.recipe.stages.build import Stage
from normc.recipe.stages.whitened import WhitenedRotate

_VALUES = {"momentum": 0.9, "weight_decay": 0.01, "beta2": 0.98, "eps": 1e-8}


class KlSoap(Soap):
    """SOAP, but for the factors: those of the Gaussian that is nearest to the gradients', each whitened by the other.

    As its authors' code has it, which takes matrices alone: no bias is taken out, all eigenvalues start at
    `init_factor`, bases are refreshed unsorted. As SOAP's, the first step makes the bases and moves nothing, and weight
    decay comes after the step. The authors compute in bf16 by default; here it is the dtype of the state.
    """

    name: ClassVar[str] = "kl-soap"
    summary: ClassVar[str] = "Adam in the eigenbases of factors that whiten each other"
    source: ClassVar[str] = "arXiv 2509.03378, and its authors' code"
    formula: ClassVar[str] = (
        "L = beta2 L + (1 - beta2) g R^-1 g^T / n, R likewise, of eigenbases Q, P;  h = Q^T g P;  "
        "m = momentum m + (1 - momentum) h;  v = beta2 v + (1 - beta2) h^2;  "
        "w = (1 - lr weight_decay) (w - lr Q (m / (sqrt(v) + eps)) P^T)"
    )
    known: ClassVar[Mapping[str, Option]] = {
        **BASES,
        "init_factor": 0.1,
        "normalize_grads": False,
        "correct_bias": False,
    }
    defaults: ClassVar[tuple[Values, Values]] = (_VALUES, _VALUES)

    def rotation(self) -> Stage:
        """Adam in bases of whitened factors."""
        return WhitenedRotate(**self.sized(), **bases(self), start=self.start())

    def start(self) -> float:
        """What every eigenvalue is before there is a gradient. NormcError if that isn't above zero."""
        start = self.number("init_factor")
        if start <= 0:
            raise NormcError(f"init_factor can't be {start}", "give a positive number, as 0.1")
        return start


recipes.add("kl-soap", KlSoap(), __name__)
