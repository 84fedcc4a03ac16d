"""The ladder of ways to trace a model: the first that yields a graph of the whole forward wins."""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree

from normc.errors import NormcError
from normc.trace.graph import ModelGraph, Parameter
from normc.trace.guesses import Guess
from normc.trace.names import call_names, unwrapped
from normc.trace.provenance import Provenance, source_of
from normc.trace.recorder import Recorder
from normc.trace.stand_ins import Twins, quiet_fakes
from normc.trace.untouched import rng_untouched, seed_for_tracing, untouched

# What the code of a forward raises. Not MemoryError, not KeyboardInterrupt: those are not about the model.
FORWARD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to trace. `below_autograd` keeps composite ops whole; above it, autograd itself runs and is recorded."""

    name: str
    below_autograd: bool = True
    truth: bool = True
    evaluating: bool = False


LADDER = (
    Rung("recorder"),
    Rung("recorder with the opposite guess", truth=False),
    Rung("recorder after autograd", below_autograd=False),
    Rung("recorder in eval", evaluating=True),
)


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException
    text: str
    guessed: bool


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelGraph:
    """Run `model(*args, **kwargs)` once on fake tensors and return its graph. The model is left as it was.

    Parameters and inputs may be on "meta". Names are those of `model.named_parameters()`, also of a compiled or
    wrapped model. A cache of a `use_cache` model is switched off unless `kwargs` says otherwise. NormcError if the
    forward fails on every rung of the ladder or returns no tensor.
    """
    if not hasattr(torch._C, "_AutoDispatchBelowAutograd"):
        raise NormcError(
            f"torch {torch.__version__} has no torch._C._AutoDispatchBelowAutograd, on which tracing rests",
            "use a torch from 2.10 to 2.13",
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise NormcError(f"{name} is lazy and has no shape yet", "run one forward pass first")
    kwargs = {**_without_cache(model, args, kwargs), **kwargs}
    failures: list[_Failure] = []
    for rung in LADDER:
        pointless = (not rung.truth and not failures[0].guessed) or (rung.evaluating and not model.training)
        if pointless:
            continue
        result = _climb(rung, model, args, kwargs)
        if isinstance(result, ModelGraph):
            return result
        failures.append(result)
    raise NormcError(
        f"the forward of {type(unwrapped(model)).__name__} can't be traced: {failures[0].text}",
        "see that the model runs on these example inputs; if it does, tracing lacks that op: pass inputs that avoid it",
    ) from failures[0].error


def _climb(rung: Rung, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelGraph | _Failure:
    where = Provenance(model)
    paths = _attribute_paths(model)
    parameters = _parameters(model)
    twins = Twins(model, (args, kwargs))
    recorder = Recorder(twins, where, Guess(rung.truth), paths)
    with rng_untouched(), untouched(model, args, kwargs):
        seed_for_tracing()
        nodes = _place_all(recorder, model, args, kwargs)
        modules = list(model.modules())
        twins.move_in(modules)
        for module in modules if rung.evaluating else ():
            module.training = False
        fake_args, fake_kwargs = pytree.tree_map_only(Tensor, twins.of, (args, kwargs))
        try:
            with _surroundings(), twins.mode, _level(rung), recorder:
                out = where.run(unwrapped(model), fake_args, fake_kwargs)
            found = tensor_leaves(out)
            recorder.finish(found)
        except FORWARD_ERRORS as error:
            return _Failure(error, _explain(error, recorder, where), bool(recorder.guesses))
    if not found:
        raise NormcError(f"the forward of {type(unwrapped(model)).__name__} returns no tensor", "return one")
    named = {parameter.name: nodes[parameter.name] for parameter in parameters}
    return ModelGraph(
        type(unwrapped(model)).__name__,
        recorder.graph,
        parameters,
        types.MappingProxyType(named),
        tuple(recorder.guesses),
        rung.name,
    )


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
        if isinstance(value, Tensor)
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


def tensor_leaves(value: object) -> list[Tensor]:
    """Every tensor in what a forward returned: containers, dataclasses, model outputs, plain objects. Each once."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    waiting: list[object] = [value]
    while waiting:
        for item in pytree.tree_leaves(waiting.pop(0)):
            if isinstance(item, Tensor):
                found.setdefault(id(item), item)
            elif id(item) not in seen and not isinstance(item, (type, nn.Module, types.ModuleType)):
                seen.add(id(item))
                waiting.append(list(getattr(item, "__dict__", {}).values()))
    return list(found.values())


def _without_cache(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, bool]:
    """`use_cache=False` for a model that would return its keys and values: they are no part of what is learned."""
    if not getattr(getattr(model, "config", None), "use_cache", False) or "use_cache" in kwargs:
        return {}
    signature = inspect.signature(unwrapped(model).forward)
    if "use_cache" not in signature.parameters:
        return {}
    try:
        bound = signature.bind_partial(*args, **kwargs)
    except TypeError:
        return {}
    return {} if "use_cache" in bound.arguments else {"use_cache": False}


def _explain(error: BaseException, recorder: Recorder, where: Provenance) -> str:
    """What failed: the op, the module, the line of the model's code, and the error's own first line."""
    message = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    source = source_of(error)
    module = where.failed_in(error) or "the model itself"
    op = ""
    if recorder.failure is not None and recorder.failure[0] is error:
        op = f"{recorder.failure[1]} "
        source = recorder.failure[3] or source
    return f"{op}in {module}" + (f" ({source})" if source else "") + f" raised {message}"
