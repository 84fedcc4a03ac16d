"""For torchtitan: `Trainer.Config(optimizer=NormcOptimizers.Config(lr=0.8), ...)`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.components.optimizer.utils import init_optim_state

from normc.compiler import compile as compile_optimizer
from normc.errors import NormcError
from normc.recipe.recipe import Option

_ROWS, _LENGTH = 2, 16  # of the tokens that a model is traced on
_IN_ORDER = ("params", "param_names")  # of a group: what stands in the order of its parameters


class NormcOptimizers(OptimizersContainer):  # type: ignore[misc]  # torchtitan is untyped here
    """torchtitan's container with one optimizer, compiled from the model.

    NormcError for several model parts: of a part behind the first, the container knows no input.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):  # type: ignore[misc]
        """`lr` and `weight_decay` are the recipe's own where they are None; `options` are the recipe's."""

        lr: float | None = None
        weight_decay: float | None = None
        recipe: str = "auto"
        options: dict[str, Option] = field(default_factory=dict)

    def __init__(self, config: Config, *, model_parts: list[nn.Module]) -> None:
        if len(model_parts) != 1:
            raise NormcError(
                f"the model is in {len(model_parts)} parts", "use normc without pipeline parallelism: it plans a model"
            )
        if config.param_groups:
            raise NormcError("param_groups are given", "leave them out: the plan says what every parameter gets")
        self.model_parts = model_parts
        (model,) = model_parts
        decay: dict[str, Any] = {} if config.weight_decay is None else {"weight_decay": config.weight_decay}
        opt = compile_optimizer(
            model, _example(model), lr=config.lr, recipe=config.recipe, options=dict(config.options), **decay
        )
        self.optimizers = [opt]
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._post_init(trainable)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load torchtitan's flat dict. NormcError, as `Optimizer.load_state_dict`, if it is another plan's.

        The parent's own loader leaves the names out, by which normc matches parameters.
        """
        (opt,) = self.optimizers
        init_optim_state(opt)
        own = opt.state_dict()
        groups, state = [], {}
        for group in own["param_groups"]:
            names = group["param_names"]
            values = {key: state_dict[f"param_groups.{names[0]}.{key}"] for key in group if key not in _IN_ORDER}
            groups.append({**values, **{key: group[key] for key in _IN_ORDER}})
            for index, name in zip(group["params"], names, strict=True):
                if index in own["state"]:
                    state[index] = {key: state_dict[f"state.{name}.{key}"] for key in own["state"][index]}
        opt.load_state_dict({"state": state, "param_groups": groups})


def _example(model: Any) -> tuple[Any, ...]:
    """Tokens, positions and the model's own masks of them, as torchtitan's trainer gives them."""
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (_ROWS, _LENGTH), generator=draw).to(device)
    positions = torch.arange(_LENGTH, device=device).expand(_ROWS, _LENGTH)
    return tokens, positions, model.get_attention_masks(positions)
