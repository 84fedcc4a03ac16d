"""normc's own contestants, through its public calls, and what can be switched off of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.step.contest import DECAY, LR, MOMENTUM, CannotRunError, Contestant, Problem, Runner, original

ABLATED = "normc without "
EXPRESS = {"polynomial": "polar-express", "ns_steps": 5}


def compiled(model: nn.Module, example: Any, without: tuple[str, ...] = (), **how: Any) -> Any:
    """normc.compile, with some rewrites left out by name."""
    import normc

    extra: dict[str, Any] = {"without": without} if without else {}
    try:
        return normc.compile(model, example, **extra, **how)
    except normc.NormcError as reason:
        raise CannotRunError(reason.problem) from None


def switchable(device: str) -> tuple[str, ...]:
    """Names of rewrites that `without` takes on a device; the others are printed."""
    from normc.optimizer import SWITCHABLE

    others = [name for name, switch in SWITCHABLE.items() if device not in switch.backends]
    if others:
        print(f"not on {device}, so not left out: {', '.join(others)}")
    return tuple(name for name in SWITCHABLE if name not in others)


def gain(opt: Any, without: tuple[str, ...]) -> str:
    """What rewrites are predicted to save in an optimizer that leaves them out. CannotRunError if nothing differs."""
    from normc.optimizer import program_of

    full, less = program_of(opt.plan, opt.target).decisions, program_of(opt.plan, opt.target, without).decisions
    if full == less:
        raise CannotRunError("nothing here takes it: all decisions are the same")
    savings = [one.saving for one in full if one.rule in without and one.saving]
    return "; ".join(dict.fromkeys(savings))


def muon(*without: str) -> Callable[[Problem], Runner]:
    """The recipe muon with five steps of Polar Express; AdamW for the rest, in the same step."""

    def build(given: Problem) -> Runner:
        opt = compiled(
            given.model, given.example, without, lr=LR, recipe="muon", options=EXPRESS, momentum=MOMENTUM,
            weight_decay=(DECAY, 0.01),
        )  # fmt: skip
        _check(opt, given)
        runner = Runner(opt.step, opt, given.matrices, original)
        runner.predicted = gain(opt, without) if without else ""
        return runner

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
    return Contestant(f"{ABLATED}{name}", "ablation", "", muon(name))
