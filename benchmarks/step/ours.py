"""normc's own contestants, through its public calls, and what can be switched off of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from benchmarks.step.contest import DECAY, LR, MOMENTUM, CannotRunError, Contestant, Problem, Runner, original

ABLATED = "normc without "
EXPRESS: dict[str, Any] = {"polynomial": "polar-express", "ns_steps": 5}


def compiled(model: nn.Module, example: Any, without: tuple[str, ...] = (), **how: Any) -> Any:
    """normc.compile, with some rewrites left out by name."""
    import normc

    extra: dict[str, Any] = {"without": without} if without else {}
    return normc.compile(model, example, **extra, **how)


def switchable(device: str) -> tuple[str, ...]:
    """Names of rewrites that `without` takes on a device; the others are printed."""
    from normc.update.program.switches import SWITCHABLE

    others = [name for name, switch in SWITCHABLE.items() if device not in switch.backends]
    if others:
        print(f"not on {device}, so not left out: {', '.join(others)}")
    return tuple(name for name in SWITCHABLE if name not in others)


def gain(plan: Any, device: str, without: tuple[str, ...]) -> str:
    """What some rewrites are predicted to save in a plan's step. CannotRunError if nothing differs without them."""
    import normc
    from normc.pipeline import program_of
    from normc.update.program.build import build_of

    try:
        full, less = (program_of(plan, build_of(device, names)).decisions for names in ((), without))
    except normc.NormcError as reason:
        raise CannotRunError(reason.problem) from None
    if full == less:
        raise CannotRunError("nothing here takes it: all decisions are the same")
    savings = [one.saving for one in full if one.rule in without and one.saving]
    return "; ".join(dict.fromkeys(savings))


def muon(*without: str) -> Callable[[Problem], Runner]:
    """The recipe muon with five steps of Polar Express; AdamW for the rest, in the same step."""

    def build(given: Problem) -> Runner:
        plan, predicted = None, ""
        if without:
            import normc

            plan = normc.plan(given.model, given.example, recipe="muon", options=EXPRESS)
            predicted = gain(plan, given.device.type, without)
        opt = compiled(
            given.model, given.example, without, lr=LR, recipe="muon", options=EXPRESS, momentum=MOMENTUM,
            weight_decay=(DECAY, 0.01), plan=plan,
        )  # fmt: skip
        _check(opt, given)
        return Runner(opt.step, opt, given.matrices, original, predicted=predicted, settle=partial(_settle, opt))

    return build


def normed(given: Problem) -> Runner:
    """Scion: a norm for every parameter, and one momentum for each."""
    opt = compiled(given.model, given.example, lr=1e-3, recipe="scion")
    return Runner(opt.step, opt, given.matrices, settle=partial(_settle, opt))


def _settle(opt: Any) -> None:
    """Loops over many parameters are compiled in the background, once for a version of torch."""
    if opt._launcher is not None:
        opt._launcher.native.wait()


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
