"""For transformers' Trainer, from version 5 on: `Trainer(..., optimizer_cls_and_kwargs=optimizer(lr=0.8))`."""

from __future__ import annotations

from typing import Any

from torch import nn

from normc.compiler import compile as compile_optimizer
from normc.errors import NormcError
from normc.optimizer import Optimizer


class Factory:
    """Makes the optimizer of Trainer's model.

    It is no subclass of torch's Optimizer: Trainer gives the whole model to what isn't, and parameter groups without
    names to what is. NormcError if it is given groups, as Trainer did before version 5.
    """

    def __init__(self, *given: Any, **options: Any) -> None:
        if given or options:
            raise NormcError(
                "the factory was given parameter groups, which have no names and no model",
                "use transformers 5 or newer, or pass Trainer(optimizers=(normc.compile(model), None))",
            )

    def __call__(self, model: nn.Module, **options: Any) -> Optimizer:
        """Return the optimizer of `model`; options are those of `normc.compile`."""
        return compile_optimizer(model, **options)


def optimizer(**options: Any) -> tuple[type[Factory], dict[str, Any]]:
    """Return what Trainer takes as `optimizer_cls_and_kwargs`.

    `options` are those of `normc.compile`: without `lr` the recipe's own is taken. TrainingArguments' `learning_rate`
    and `weight_decay` count only where they are passed on (`lr=args.learning_rate`), since their defaults, 5e-5 and 0,
    are meant for AdamW. `optim="normc"` isn't possible: TrainingArguments refuses names that aren't its own.
    """
    return Factory, options
