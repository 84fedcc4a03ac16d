"""The optimizers, each with a range of learning rates and one value of weight decay.

Peers are torch's and pytorch_optimizer's own classes where those take any model. `scion` and `hyperball` are normc's
recipes: both need to know each parameter's role, which no package infers (tests hold them against the originals).
Muon's and NorMuon's matrices are told from the rest by hand, as people do: no embedding, no head, no table of
places, no depthwise filter. A convolution's filters are the rows of one matrix, experts are matrices of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytorch_optimizer
import torch
from torch import Tensor, nn

import normc
from workloads.training import adamw

Optimizers = Sequence[torch.optim.Optimizer]
NOT_MATRICES = ("head.", "places", "tokens", "marks")


@dataclass(frozen=True, slots=True)
class Twins:
    """A parameter, and matrices that share its storage: what an optimizer of matrices is given."""

    whole: nn.Parameter
    parts: tuple[nn.Parameter, ...]

    def hand_on(self) -> None:
        """Give each part its share of the gradient."""
        if self.whole.grad is not None:
            for part, grad in zip(self.parts, matrices_of(self.whole.grad), strict=True):
                part.grad = grad


@dataclass(frozen=True, slots=True)
class Stepper:
    """Optimizers that step together."""

    optimizers: Optimizers
    twins: tuple[Twins, ...] = ()
    clip: float | None = None  # the norm of all gradients is at most this

    def step(self, model: nn.Module) -> None:
        """Clip, step, and drop the gradients."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        for twins in self.twins:
            twins.hand_on()
        for optimizer in self.optimizers:
            optimizer.step()
        model.zero_grad()


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tuned: lr, the rate of what is no matrix over it (1 where there is one rate), and weight decay."""

    lr: float
    rest: float
    decay: float


Build = Callable[[nn.Module, Any, Setting], Stepper]


@dataclass(frozen=True, slots=True)
class Contestant:
    """An optimizer: seven learning rates around `lr`, a factor of two apart, with `decay`, and some without.

    `rest` is where the second learning rate starts, for those that have two (`two_rates`).
    """

    name: str
    source: str
    build: Build
    lr: float
    decay: float
    rest: float = 1.0
    two_rates: bool = False
    images: bool = False  # takes part in workloads of images alone


def matrices_of(whole: Tensor) -> tuple[Tensor, ...]:
    """Return views of a tensor: itself, the matrices of a stack, or filters as the rows of one matrix."""
    if whole.ndim == 2:
        return (whole,)
    return whole.unbind(0) if whole.ndim == 3 else (whole.flatten(1),)


def divided(model: nn.Module) -> tuple[tuple[Twins, ...], list[nn.Parameter]]:
    """Return a model's matrices, and the rest of what learns."""
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    depthwise = {id(module.weight) for module in model.modules() if isinstance(module, nn.Conv1d)}
    twins, rest = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or id(parameter) in looked_up | depthwise or name.startswith(NOT_MATRICES):
            rest.append(parameter)
        else:
            twins.append(Twins(parameter, tuple(map(nn.Parameter, matrices_of(parameter.detach())))))
    return tuple(twins), rest


def grouped(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return two groups: decay is for what has two axes or more."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def _adamw(model: nn.Module, inputs: Any, setting: Setting) -> Stepper:
    return Stepper([adamw(model, setting.lr, setting.decay)], clip=1.0)


def _sgd(model: nn.Module, inputs: Any, setting: Setting) -> Stepper:
    return Stepper([torch.optim.SGD(grouped(model, setting.decay), lr=setting.lr, momentum=0.9, nesterov=True)])


def _lion(model: nn.Module, inputs: Any, setting: Setting) -> Stepper:
    return Stepper([pytorch_optimizer.Lion(grouped(model, setting.decay), lr=setting.lr, betas=(0.9, 0.99))])


def _soap(model: nn.Module, inputs: Any, setting: Setting) -> Stepper:
    # A basis of a table of 3,000 categories or more would cost more than all the rest; vocabularies have theirs.
    return Stepper([pytorch_optimizer.SOAP(grouped(model, setting.decay), lr=setting.lr, max_precondition_dim=2560)])


def _of_rest(rest: list[nn.Parameter], setting: Setting) -> torch.optim.Optimizer:
    groups = [
        {"params": [parameter for parameter in rest if parameter.ndim >= 2], "weight_decay": setting.decay},
        {"params": [parameter for parameter in rest if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=setting.lr * setting.rest, betas=(0.9, 0.95))


def _muon(adjusted: str) -> Build:
    def build(model: nn.Module, inputs: Any, setting: Setting) -> Stepper:
        twins, rest = divided(model)
        matrices = [part for one in twins for part in one.parts]
        muon = torch.optim.Muon(matrices, lr=setting.lr, weight_decay=setting.decay, adjust_lr_fn=adjusted)
        return Stepper([muon, _of_rest(rest, setting)] if rest else [muon], twins)

    return build


def _normuon(model: nn.Module, inputs: Any, setting: Setting) -> Stepper:
    twins, rest = divided(model)
    matrices = [part for one in twins for part in one.parts]
    groups = [{"params": matrices, "use_muon": True, "lr": setting.lr, "weight_decay": setting.decay}]
    normuon = pytorch_optimizer.NorMuon(groups)
    return Stepper([normuon, _of_rest(rest, setting)] if rest else [normuon], twins)


def planned(name: str, *, rates: bool = False, **options: Any) -> Build:
    """Return what builds a recipe of normc, uncompiled: runs are short, and only steps are counted."""

    def build(model: nn.Module, inputs: Any, setting: Setting) -> Stepper:
        own = options | {"adamw_lr_ratio": setting.rest} if rates else options
        return Stepper([normc.compile(model, inputs, recipe=name, lr=setting.lr, options=own, compile=False,
                                      weight_decay=setting.decay)])  # fmt: skip

    return build


CONTESTANTS = {
    one.name: one
    for one in (
        Contestant("auto", "normc", planned("auto"), 0.8, 0.1),
        Contestant("adamw", "torch.optim.AdamW, clipped to 1", _adamw, 3e-3, 0.1),
        Contestant("muon-match-rms", "torch.optim.Muon, match_rms_adamw, and AdamW", _muon("match_rms_adamw"), 0.01,
                   0.1, two_rates=True),
        Contestant("hyperball", "normc's recipe hyperball, Muon's direction",
                   planned("hyperball", rates=True, direction="muon"), 0.03, 0.1, 0.1, two_rates=True),
        Contestant("soap", "pytorch_optimizer.SOAP", _soap, 3e-3, 0.1),
        Contestant("muon-original", "torch.optim.Muon, its own scale, and AdamW", _muon("original"), 0.02, 0.1, 0.15,
                   two_rates=True),
        Contestant("normuon", "pytorch_optimizer.NorMuon, and AdamW", _normuon, 0.02, 0.1, 0.15, two_rates=True),
        Contestant("scion", "normc's recipe uscion", planned("uscion"), 0.01, 0.1),
        Contestant("lion", "pytorch_optimizer.Lion", _lion, 3e-4, 1.0),
        Contestant("sgd", "torch.optim.SGD, momentum .9, Nesterov", _sgd, 0.1, 5e-4, images=True),
    )
}  # fmt: skip


def grid(contestant: Contestant) -> tuple[Setting, ...]:
    """Return the sweep: seven learning rates, with decay."""
    return tuple(
        Setting(significant(contestant.lr * 2.0**power), contestant.rest, contestant.decay) for power in range(-3, 4)
    )


def undecayed(contestant: Contestant, best: Setting) -> tuple[Setting, ...]:
    """Return three more runs, without decay: the best learning rate and the two beside it, or the outermost three."""
    settings = grid(contestant)
    middle = min(max(settings.index(best), 1), len(settings) - 2)
    return tuple(replace(setting, decay=0.0) for setting in settings[middle - 1 : middle + 2])


def refined(contestant: Contestant, best: Setting) -> tuple[Setting, ...]:
    """Return two more runs: beyond the edge if the best lies there, else the other rate, else rates between."""
    rates = [setting.lr for setting in grid(contestant)]
    step = {min(rates): (0.5, 0.25), max(rates): (2.0, 4.0)}.get(best.lr)
    if step is None and contestant.two_rates:
        return tuple(Setting(best.lr, significant(best.rest * factor), best.decay) for factor in (1 / 3, 3.0))
    factors = step or (2**-0.5, 2**0.5)
    return tuple(Setting(significant(best.lr * factor), best.rest, best.decay) for factor in factors)


def significant(number: float, digits: int = 3) -> float:
    """Return `number` rounded to so many digits, so that a key's text and its number are the same."""
    return round(number, digits - 1 - math.floor(math.log10(abs(number))))
