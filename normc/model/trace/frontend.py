"""The ladders of ways to trace a model: the first that yields a graph of the whole forward wins."""

from __future__ import annotations

import contextlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree

from normc.arguments import shown
from normc.errors import NormcError
from normc.model.trace.caches import fresh_caches
from normc.model.trace.dataless import answered
from normc.model.trace.distributed import as_before, is_sharded
from normc.model.trace.export import exported
from normc.model.trace.failures import Caught, Failure, explained
from normc.model.trace.foreign import ask, signature_of
from normc.model.trace.graph import ModelGraph, Parameter
from normc.model.trace.guesses import Answers
from normc.model.trace.names import call_names, unwrapped
from normc.model.trace.paths import explored, reads
from normc.model.trace.provenance import Provenance
from normc.model.trace.recorder import Recorder
from normc.model.trace.scripted import plainly
from normc.model.trace.stand_ins import Twins, converted_in_sight, quiet_fakes
from normc.model.trace.untouched import drawn_from, rng_untouched, seed_for_tracing, untouched
from normc.model.trace.values import tensor_leaves

# Makes ready what runs a model, or its graph, inside a recorder, and returns what it gives.
Prepare = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Twins, Provenance], Callable[[], object]]


def python(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], twins: Twins, where: Provenance
) -> Callable[[], object]:
    """The model's own forward, on twins of its tensors. Moves them in; the caller puts the real ones back."""
    twins.move_in(model.modules())
    fake_args, fake_kwargs = pytree.tree_map_only(Tensor, twins.of, (args, kwargs))
    return lambda: where.run(unwrapped(model), fake_args, fake_kwargs)


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to trace. `below_autograd` keeps composite ops whole; above it, autograd itself runs and is recorded."""

    name: str
    prepare: Prepare
    below_autograd: bool = True
    evaluating: bool = False


_RECORDERS = (
    Rung("recorder", python),
    Rung("recorder after autograd", python, below_autograd=False),
    Rung("recorder in eval", python, evaluating=True),
)
FRONTENDS: Mapping[str, tuple[Rung, ...]] = {
    "recorder": _RECORDERS,
    "export": (Rung("export", exported), *_RECORDERS),
}


_BEFORE_SHARDING = (
    "call the model on these inputs without normc. Where that works, its code knows of ranks (local numbers of heads, "
    "hooks of your own), and a trace runs it on whole tensors: plan it before, then normc.compile(model, plan=plan)"
)


def find_ladder(frontend: str) -> tuple[Rung, ...]:
    """The ways to trace that a frontend tries, in order. NormcError if there is no such frontend."""
    if not isinstance(frontend, str) or frontend not in FRONTENDS:
        raise NormcError(f"no frontend is called {shown(frontend)}", f"known: {', '.join(FRONTENDS)}")
    return FRONTENDS[frontend]


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], frontend: str = "recorder") -> ModelGraph:
    """Run `model(*args, **kwargs)` once on fake tensors and return its graph. The model is left as it was.

    `frontend` says who runs the model's Python: the "recorder" itself, or torch.export ("export"), whose graph the
    recorder then runs. Both give the same form of graph. What torch.export can't run, the recorder runs, with a note.

    Parameters and inputs may be on "meta". Names are those of `model.named_parameters()`, also of a compiled or
    wrapped model, and shapes are those of whole tensors, also of a sharded one. A cache of a `use_cache` model is
    switched off unless `kwargs` says otherwise. NormcError if the forward fails on every rung of the frontend's ladder
    or returns no tensor, or if there is no such frontend.
    """
    ladder = find_ladder(frontend)
    if not hasattr(torch._C, "_AutoDispatchBelowAutograd"):
        raise NormcError(
            f"torch {torch.__version__} has no torch._C._AutoDispatchBelowAutograd, on which tracing rests",
            "use a torch from 2.10 to 2.13",
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise NormcError(f"{name} is lazy and has no shape yet", "run one forward pass first")
    with as_before(model):
        return _first_graph(ladder, model, args, {**_without_cache(model, args, kwargs), **kwargs}, frontend)


def _first_graph(
    ladder: tuple[Rung, ...], model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], frontend: str
) -> ModelGraph:
    failures: list[Failure] = []
    for rung in ladder:
        if rung.evaluating and not model.training:
            continue
        result = explored(lambda answers, rung=rung: _climb(rung, model, args, kwargs, answers))  # type: ignore[misc]
        if isinstance(result, ModelGraph):
            return _checked(_noted(result, rung, frontend, failures))
        failures.append(result)
        if result.blame == "loop":  # whoever runs it
            break
    told = failures[min(ladder.index(_RECORDERS[0]), len(failures) - 1)]
    if told.blame == "model" and any(map(is_sharded, model.parameters())):
        told = replace(told, fix=_BEFORE_SHARDING)
    raise told.raised(type(unwrapped(model)).__name__) from told.error


def _noted(graph: ModelGraph, rung: Rung, frontend: str, failures: list[Failure]) -> ModelGraph:
    """With what has to be said where another rung than the first yielded it."""
    if not rung.name.startswith(frontend):
        graph = replace(graph, notes=(f"torch.export can't run this model, so the recorder did: {failures[0].text}",))
    if not rung.evaluating:
        return graph
    guess = f"that training uses what eval uses: in training mode the forward fails, {failures[0].text}"
    return replace(graph, guesses=(*graph.guesses, guess))


def _checked(graph: ModelGraph) -> ModelGraph:
    """The graph. NormcError if no gradient reaches any parameter."""
    if graph.parameters and not reads(graph):
        raise NormcError(
            f"no gradient of what the forward of {graph.model} returns reaches any of its parameters",
            "let forward return tensors that weights computed, with gradients on; of a distribution, its log_prob",
        )
    return graph


def _climb(
    rung: Rung, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], answers: Answers
) -> ModelGraph | Failure:
    where = Provenance(model)
    paths = _attribute_paths(model)
    parameters = _parameters(model)
    twins = Twins(model, (args, kwargs))
    recorder = Recorder(twins, where, answers, paths)
    caught, found = Caught(), list[Tensor]()
    with rng_untouched(), fresh_caches(model, where.visited), untouched(model, args, kwargs):
        seed_for_tracing(answers.draw)
        undrawn = drawn_from()
        nodes = _place_all(recorder, model, args, kwargs)
        for module in model.modules() if rung.evaluating else ():
            module.training = False
        with caught, _surroundings():
            run = rung.prepare(model, args, kwargs, twins, where)
            with twins.mode, _level(rung), recorder, answered(recorder.data_of, recorder.learns):
                out = run()
                found = tensor_leaves(out)
                recorder.finish(found)
        answers.drew = drawn_from() != undrawn
    if caught.error is not None:
        return explained(caught.error, recorder, where, answers)
    if not found:
        raise NormcError(
            f"the forward of {type(unwrapped(model)).__name__} returns no tensor, but {_kind(out)}",
            "let it return one; of an object that computes when it is asked, what the loss asks it for",
        )
    named = {parameter.name: nodes[parameter.name] for parameter in parameters}
    return ModelGraph(
        type(unwrapped(model)).__name__,
        recorder.graph,
        parameters,
        types.MappingProxyType(named),
        tuple(recorder.guesses),
        rung.name,
    )


def _kind(value: object) -> str:
    return "nothing" if value is None else f"an object of type {type(value).__name__}"


def _parameters(model: nn.Module) -> tuple[Parameter, ...]:
    names: dict[int, list[str]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    return tuple(
        Parameter(first, tuple(dict.fromkeys(others)), tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
        for identity, (first, *others) in names.items()
        for tensor in (tensors[identity],)
    )


def _place_all(
    recorder: Recorder, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, fx.Node]:
    """Placeholders of every parameter, buffer and input, in this order; the parameters' by name."""
    nodes = {name: recorder.place(tensor, "param", name) for name, tensor in model.named_parameters()}
    for name, tensor in model.named_buffers():
        recorder.place(tensor, "buffer", name)
    for name, tensor in call_names(model, args, kwargs):
        recorder.place(tensor, "input", name)
    return nodes


def _attribute_paths(model: nn.Module) -> dict[int, str]:
    """Names of tensors that modules hold as plain attributes."""
    return {
        id(value): f"{path}.{key}" if path else key
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if issubclass(type(value), Tensor)
    }


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """Gradients on, fused eval kernels and torch.compile off, no warnings: the plain path through every module."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(quiet_fakes())
            stack.enter_context(torch.enable_grad())
            stack.enter_context(plainly())
            stack.enter_context(converted_in_sight())
            if "torch._dynamo" in sys.modules:  # nothing can be compiled before that is imported
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _level(rung: Rung) -> contextlib.AbstractContextManager[Any]:
    if not rung.below_autograd:
        return contextlib.nullcontext()
    guard: contextlib.AbstractContextManager[Any] = torch._C._AutoDispatchBelowAutograd()
    return guard


def _without_cache(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, bool]:
    """`use_cache=False` for a model that would return its keys and values: they are no part of what is learned."""
    if ask(ask(model, "config"), "use_cache") is not True or "use_cache" in kwargs:
        return {}
    signature = signature_of(unwrapped(model).forward)
    if signature is None or "use_cache" not in signature.parameters:
        return {}
    try:
        bound = signature.bind_partial(*args, **kwargs)
    except TypeError:
        return {}
    return {} if "use_cache" in bound.arguments else {"use_cache": False}
