"""From a model to its optimizer, every step in order: trace, analyses, plan; lower, rewrites, load; optimizer.

The plan is all that passes from the first three to the next three: one that was loaded from a file goes in there.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import is_
from typing import Any

from torch import Tensor, nn

from normc.backends.backend import backends
from normc.checks import check_fact, check_program
from normc.model.facts import Elsewhere, Facts, Log, analyses
from normc.model.trace.distributed import kind_of
from normc.model.trace.frontend import trace
from normc.model.trace.graph import ModelGraph, Path
from normc.model.trace.names import under_bare_names
from normc.optimizer import Optimizer
from normc.passes.analyses.geometry import Rows
from normc.passes.analyses.request import Request
from normc.passes.resize.origin import Traced
from normc.passes.rewrites.lower import lower
from normc.plans.asked import changed, refuse_lost
from normc.plans.notes import MOST_UNREACHED, guessed, planned_elsewhere, unreached
from normc.plans.plan import NormPlan
from normc.plans.wiring import Wiring
from normc.recipe.by_name import recipe_of
from normc.recipe.recipe import Recipe
from normc.update.program.build import ON_CPU, Build
from normc.update.program.module import Loaded
from normc.update.program.program import Program, annotate
from normc.update.program.rewriting import rewrites
from normc.update.program.storage import check_kinds, with_codes
from normc.update.runtime.progress import progress
from normc.watching import checking, print_decision, print_evidence, to_print

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

ANALYSES = (
    "bind", "flow", "depth", "layout", "blocks", "role", "sanity", "magnitude", "mass", "sensitivity", "geometry",
    "wiring",
)  # fmt: skip
# Of a path that is traced for the sake of some parameters, masses and norms are decided with all others'.
OF_OTHER_PATHS = tuple(name for name in ANALYSES if name not in ("mass", "geometry", "wiring"))
_OWN_EVIDENCE = ("layout", "blocks", "role", "sensitivity")  # facts that such a path has reasons of its own for
REWRITES = ("stack", "laws", "fuse", "dtypes", "batch", "kernels")
# These say how a program runs, and so they do where their own way is left out.
_ALWAYS = ("batch", "kernels")


# Model to plan.


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cycles of garbage: a fifth of planning, of whose objects nearly all are kept."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()
def plan_model(model: nn.Module, inputs: Inputs, request: Request) -> NormPlan:
    """The plan of a model on these inputs. NormcError where tracing fails, and where a strict request refuses."""
    with progress(f"planning {kind_of(model).__name__}"):
        plan = changed(plan_graph(traced(model, inputs, request), request), request.overrides)
    if request.strict:
        refuse_lost(plan)
    for note in plan.notes:
        if note.startswith(MOST_UNREACHED):
            warnings.warn(f"{plan.model}: {note}", stacklevel=4)
    return plan


def traced(model: nn.Module, inputs: Inputs, request: Request) -> ModelGraph:
    """The model's forward as a graph, by the frontend that is asked for, under names that no wrapper is part of."""
    return under_bare_names(trace(model, *inputs, request.frontend), model)


def plan_graph(graph: ModelGraph, request: Request) -> NormPlan:
    """The plan of a traced model, before overrides."""
    log = Log()
    return plan_of(graph, request, analysed(graph, request, log), log)


def analysed(graph: ModelGraph, request: Request, log: Log) -> Facts:
    """What all analyses find, in their order; their reasons go to `log`."""
    others = [(path, Log()) for path in graph.others]
    facts = Facts().plus(request)
    elsewhere: dict[str, Facts] = {}
    for path, own in others:
        elsewhere |= dict.fromkeys(path.reads, _passed(OF_OTHER_PATHS, path.graph, facts, own))
    found = _passed(ANALYSES, graph, facts.plus(Elsewhere(elsewhere)), log)
    for path, own in others:
        _tell(path, own, log)
    return found


def _passed(names: tuple[str, ...], graph: ModelGraph, facts: Facts, log: Log) -> Facts:
    shown = to_print(ANALYSES)
    for name in names:
        before = {parameter: len(found) for parameter, found in log.evidence.items()}
        start = time.perf_counter()
        fact = analyses[name](graph, facts, log)
        facts = facts.plus(fact)
        if name in shown:
            print_evidence(name, log, before, time.perf_counter() - start)
        if checking():
            check_fact(name, graph, fact)
    return facts


def _tell(path: Path, own: Log, log: Log) -> None:
    """Evidence about what only that path reads is that path's, but for what is shared by all parameters."""
    for name in path.reads:
        shared = [found for found in log.evidence.get(name, ()) if found.fact not in _OWN_EVIDENCE]
        log.evidence[name] = [*own.evidence.get(name, ()), *shared]
        log.because(name, "path", f"read {path.why}", "the path that reads most doesn't read it")
    log.notes.append(planned_elsewhere(path.reads, path.why))


def plan_of(graph: ModelGraph, request: Request, facts: Facts, log: Log) -> NormPlan:
    """The plan that the analyses' facts make up."""
    rows = tuple(
        replace(facts[Rows].of[parameter.name], evidence=tuple(log.evidence.get(parameter.name, ())))
        for parameter in graph.parameters
    )
    return NormPlan(
        rows=rows,
        model=graph.model,
        recipe=request.recipe.name,
        options=tuple(sorted(facts[Rows].recipe.options.items())),
        notes=(*graph.notes, *guessed(graph.guesses), *log.notes, *unreached(rows)),
        origin=Traced(graph, request, plan_graph, facts if request.recipe.gains != "average" else None),
        wiring=facts[Wiring],
    )


# Plan to update.


def update_of(plan: NormPlan, build: Build = ON_CPU) -> Loaded:
    """A plan's update, loaded, and its source. NormcError for a target that there isn't."""
    program = program_of(plan, build)
    shown = to_print(ANALYSES)
    for decision in program.decisions:
        if decision.rule in shown:
            print_decision(decision)
    with progress(f"loading the update of {plan.model}"):
        return backends[build.backend].load(program, recipe_of(plan))


def program_of(plan: NormPlan, build: Build = ON_CPU) -> Program:
    """The update program of a plan, lowered and rewritten; `decisions` says what each rewrite did and why.

    NormcError for a row that no update can be made of, and for states whose dtype can't be chosen.
    """
    return rewritten(lowered(plan, build))


def lowered(plan: NormPlan, build: Build) -> Program:
    """The plain program: what every row's recipe says, one chain of ops a row."""
    device = backends[build.backend].device(build.target)
    program = replace(lower(plan, recipe_of(plan)), build=build, device=device)
    with_codes(build.storage, (chain.graph for chain in program.chains))
    kinds = ((chain.row.name, kind) for chain in program.chains for _, kind in chain.states)
    check_kinds(build.storage, kinds, plan.recipe)
    return program


def plain_program(plan: NormPlan) -> Program:
    """The program that a plain file is written from: chains without what is idle, whose steps' sizes are one number."""
    program = lowered(plan, ON_CPU)
    for name in ("stack", "laws"):
        program = rewrites[name](program)
    # A size counts as one of the step where kernels would multiply by it: wherever the direction comes from.
    return rewrites["fuse"](replace(program, device=replace(program.device, fused=True)))


def uncut(plan: NormPlan, build: Build) -> Program:
    """The plain program that is cut over ranks."""
    program = lowered(plan, build)
    if "laws" not in build.without:  # on whole chains: in a part of one, a state reaches no weight
        program = rewrites["laws"](program)
        program = replace(program, build=replace(build, without=(*build.without, "laws")))
    return program


def rewritten(program: Program) -> Program:
    """The program after all rewrites that aren't left out; as it is for a backend that runs it row by row."""
    if not backends[program.build.backend].batched:
        return program
    for name in REWRITES:
        if name == "batch":
            program = program.with_chains(tuple(annotate(chain) for chain in program.chains), [])
        if name in _ALWAYS or name not in program.build.without:
            before, program = program, rewrites[name](program)
            if checking():
                check_program(name, before, program)
    return program


# Update to optimizer.


@dataclass(frozen=True)
class Maker:
    """What an optimizer makes its update with, now and when its plan changes."""

    recipe: Recipe
    build: Build

    def __call__(self, plan: NormPlan) -> Loaded:
        """The plan's update."""
        return update_of(plan, self.build)

    def over_ranks(self, plan: NormPlan, members: Mapping[str, Tensor], kept: Any, group: Any) -> Any:
        """The plan's step over ranks."""
        from normc.spreading import spread

        return spread(plan, uncut(plan, self.build), rewritten, members, kept, group)

    def counted(self, plan: NormPlan) -> NormPlan:
        """The plan, with the bytes of state that this build keeps for each row; the same where it says so already."""
        recipe, kept = recipe_of(plan), self.build.storage
        rows = tuple(
            row if row.state_bytes == (held := recipe.state_bytes(row, kept)) else replace(row, state_bytes=held)
            for row in plan.rows
        )
        return plan if all(map(is_, rows, plan.rows)) else replace(plan, rows=rows)


def optimizer_of(
    plan: NormPlan,
    named_parameters: Iterable[tuple[str, Tensor]],
    build: Build,
    lr: float | Tensor | Mapping[str, float],
    **options: float | tuple[float, ...],
) -> Optimizer:
    """The optimizer of a plan. `options` are values of the recipe's groups."""
    return Optimizer(named_parameters, plan, Maker(recipe_of(plan), build), lr, **options)
