"""The optimizers, each with the parameterisation that it assumes, and with one range of learning rates for all sizes.

At width 256 and depth 4 every parameterisation is the same model: normal weights of deviation .02, no multipliers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.workloads.families.llama import Llama, LlamaBlock
from benchmarks.workloads.optimizers import CONTESTANTS as WORKLOADS
from benchmarks.workloads.optimizers import Build, Contestant, Setting, Stepper, planned
from normc.recipe.by_name import recipes

WIDTH, DEPTH = 256, 4


class Multiplied(nn.Module):
    """A layer whose result is multiplied by a number."""

    def __init__(self, layer: nn.Module, by: float) -> None:
        super().__init__()
        self.layer, self.by = layer, by

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's."""
        out: Tensor = self.layer(x) * self.by
        return out


def standard(model: Llama) -> None:
    """Give hidden matrices and the head a deviation that falls with the root of the width."""
    _narrow(model, [*_hidden(model), model.head.weight])


def mup(model: Llama) -> None:
    """Let hidden matrices fall with the root of the width, and multiply the logits by 256 / width (2203.03466)."""
    _narrow(model, _hidden(model))
    model.head = cast("nn.Linear", Multiplied(model.head, WIDTH / model.tokens.embedding_dim))


def completep(model: Llama) -> None:
    """As `mup`; and multiply every residual branch by 4 / depth (2505.01618, alpha 1)."""
    mup(model)
    by = DEPTH / len(model.blocks)
    for block in model.blocks:
        assert isinstance(block, LlamaBlock)
        block.attention = cast("Any", Multiplied(block.attention, by))
        block.mixer = Multiplied(block.mixer, by)


def _hidden(model: Llama) -> list[Tensor]:
    return [parameter for parameter in model.blocks.parameters() if parameter.ndim == 2]


@torch.no_grad()
def _narrow(model: Llama, weights: list[Tensor]) -> None:
    for weight in weights:
        weight.mul_((WIDTH / model.tokens.embedding_dim) ** 0.5)


def parameterised(change: Callable[[Llama], None], build: Build) -> Build:
    """Return what changes a model before its optimizer is made."""

    def changed(model: nn.Module, inputs: Any, setting: Setting) -> Stepper:
        assert isinstance(model, Llama)
        change(model)
        return build(model, inputs, setting)

    return changed


CONTESTANTS = {
    one.name: one
    for one in (
        Contestant("auto", "normc's default, its own weight decay", planned("auto"), 0.8,
                   recipes["auto"].defaults[0]["weight_decay"]),
        Contestant("muon", "normc's recipe muon, Moonlight's dialect", planned("muon", dialect="moonlight"), 0.01, 0.1),
        Contestant("uscion", "normc's recipe uscion", planned("uscion"), 0.01, 0.0),
        Contestant("hyperball", WORKLOADS["hyperball"].source, WORKLOADS["hyperball"].build, 0.03, 0.0, 0.1),
        Contestant("adamw", WORKLOADS["adamw"].source, WORKLOADS["adamw"].build, 3e-3, 0.1),
        Contestant("mup-adam", "normc's recipe mup-adam, muP's model",
                   parameterised(mup, planned("mup-adam", base_width=float(WIDTH))), 3e-3, 0.1),
        Contestant("completep", "normc's recipe completep, CompleteP's model",
                   parameterised(completep, planned("completep", base_width=float(WIDTH), base_depth=float(DEPTH))),
                   3e-3, 0.1),
        Contestant("everett", "normc's recipe everett, standard model, a rate a layer",
                   parameterised(standard, planned("everett", base_width=float(WIDTH))), 3e-3, 0.1),
    )
}  # fmt: skip
