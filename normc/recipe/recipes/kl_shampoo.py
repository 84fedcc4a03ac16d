"""KL-Shampoo: averages over the roots of factors that have whitened each other (Lin et al., arXiv 2509.03378)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option
from normc.recipe.recipes.kl_soap import KlSoap
from normc.recipe.recipes.soap import BASES, bases
from normc.recipe.stages.build import Stage
from normc.recipe.stages.whitened import WhitenedKron


class KlShampoo(KlSoap):
    """Every matrix over the roots of both factors, in each block apart, without Adam's squares; Adam for vectors.

    Of a side longer than `max_precond_dim` the factor is the identity. The rest is as in KL-SOAP; vectors get SOAP's
    Adam, its bias taken out.
    """

    name: ClassVar[str] = "kl-shampoo"
    summary: ClassVar[str] = "each side of a matrix over the root of a factor that the other has whitened"
    formula: ClassVar[str] = (
        "m = momentum m + (1 - momentum) g;  L = beta2 L + (1 - beta2) g R^-1 g^T / n, R likewise, with eigenvalues "
        "averaged apart;  w = (1 - lr weight_decay) (w - lr L^-1/2 m R^-1/2)"
    )
    known: ClassVar[Mapping[str, Option]] = {**BASES, "init_factor": 0.1, "normalize_grads": False}

    def sized(self) -> dict[str, bool]:
        """Bias is taken out of vectors' averages."""
        return {"correct": True, "normalize": bool(self.option("normalize_grads"))}

    def rotation(self) -> Stage:
        """The average over the roots of whitened factors."""
        return WhitenedKron(**self.sized(), **bases(self), start=self.start())


recipes.add("kl-shampoo", KlShampoo(), __name__)
