"""zuko: normalising flows. A flow returns a distribution; the example asks it for the density, as a loss does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("zuko",)
MODULES = ("zuko.flows", "zuko.nn")


class Density(nn.Module):
    """The negative log-likelihood of a flow."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x: [batch, features]; context: [batch, 5]."""
        return -self.flow(context).log_prob(x)  # type: ignore[no-any-return]  # flows have no types


def _flow(kind: str, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        width = draw.choice((12, 20))
        flow = getattr(library("zuko.flows"), kind)(3, 5, **{"hidden_features": (width, width)} | options)
        return of(Density(flow), torch.randn(4, 3).clamp(-0.9, 0.9), torch.randn(4, 5))

    return build


def _network(kind: str, *sizes: Any, **options: Any) -> Build:
    return lambda draw: of(getattr(library("zuko.nn"), kind)(*sizes, **options), torch.randn(4, sizes[0]))


def _masked(draw: Draw) -> Example:
    adjacency = torch.randn(4, 3) > 0
    return of(library("zuko.nn").MaskedMLP(adjacency, (12, 12)), torch.randn(5, 3))


MODELS: dict[str, Build] = {
    "maf": _flow("MAF", transforms=2),
    "nice": _flow("NICE", transforms=2),
    "realnvp": _flow("RealNVP", transforms=2),
    "nsf": _flow("NSF", transforms=2, bins=4),
    "ncsf": _flow("NCSF", transforms=2, bins=4),
    "naf": _flow("NAF", transforms=1, network={"hidden_features": (8, 8)}),
    "unaf": _flow("UNAF", transforms=1, network={"hidden_features": (8, 8)}),
    "cnf": _flow("CNF"),
    "sospf": _flow("SOSPF", transforms=1, degree=2, polynomials=2),
    "bpf": _flow("BPF", transforms=1, degree=4),
    "gf": _flow("GF", transforms=1, components=3),
    "gmm": _flow("GMM", components=3),
    "mlp": _network("MLP", 3, 4, (12, 12)),
    "mlp-normalised": _network("MLP", 3, 4, (12, 12), normalize=True),
    "monotonic": _network("MonotonicMLP", 3, 4, (12, 12)),
    "masked-mlp": _masked,
}
