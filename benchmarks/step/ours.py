"""normc's own contestants, through its public calls, and what can be switched off of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.step.contest import DECAY, LR, MOMENTUM, CannotRunError, Contestant, Problem, Runner, original

EXPRESS = {"polynomial": "polar-express", "ns_steps": 5}


def compiled(model: nn.Module, example: Any, without: tuple[str, ...] = (), **how: Any) -> Any:
    """normc.compile, with some rewrites left out by name."""
    import normc

    extra: dict[str, Any] = {"without": without} if without else {}
    if extra and "without" not in inspect.signature(normc.compile).parameters:
        raise CannotRunError("normc.compile has no rewrites to switch off")
    return normc.compile(model, example, **extra, **how)


def switchable() -> tuple[str, ...]:
    """Names of rewrites that `without` takes."""
    from normc import optimizer

    return tuple(getattr(optimizer, "SWITCHABLE", ()))


def muon(*without: str) -> Callable[[Problem], Runner]:
    """The recipe muon with five steps of Polar Express; AdamW for the rest, in the same step."""

    def build(given: Problem) -> Runner:
        opt = compiled(
            given.model, given.example, without, lr=LR, recipe="muon", options=EXPRESS, momentum=MOMENTUM,
            weight_decay=(DECAY, 0.01),
        )  # fmt: skip
        _check(opt, given)
        return Runner(opt.step, opt, given.matrices, original)

    return build


def normed(given: Problem) -> Runner:
    """Scion: a norm for every parameter, and one momentum for each."""
    opt = compiled(given.model, given.example, lr=1e-3, recipe="scion")
    return Runner(opt.step, opt, given.matrices)


def _check(opt: Any, given: Problem) -> None:
    """Every matrix is orthogonalised, and nothing else: else the two would not do the same."""
    spectral = {row.name for row in opt.plan.rows if row.norm == "spectral"}
    named = dict(given.model.named_parameters())
    ours = {named[name].data_ptr() for name in spectral}
    theirs = {matrix.data_ptr() for matrix in given.matrices}
    assert ours == theirs, f"{len(ours)} matrices are orthogonalised, not {len(theirs)}"


OURS = Contestant("normc", "normc", "recipe muon, Polar Express", muon())
WHOLE = Contestant("normc, a norm for every parameter", "normc", "recipe scion", normed)


def ablated(name: str) -> Contestant:
    """normc without one rewrite."""
    return Contestant(f"normc without {name}", "normc", "", muon(name))
