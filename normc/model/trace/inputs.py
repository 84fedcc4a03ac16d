"""Example inputs in any form that a training loop has them: what `forward` takes is decided by its signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from normc.errors import NormcError
from normc.model.trace.distributed import kind_of
from normc.model.trace.foreign import signature_of
from normc.model.trace.names import unwrapped
from normc.model.trace.untouched import rng_untouched, untouched

Call = tuple[tuple[Any, ...], dict[str, Any]]

# Optional parameters that take the second half of an (input, target) batch.
_TARGETS = ("target", "label", "tgt", "y", "truth", "answer")


def example_inputs(model: nn.Module, batch: object) -> Call:
    """(args, kwargs) of one forward, from a tensor, tuple, list, mapping, DataLoader or batch of one.

    A tuple is the positional arguments, or (args, kwargs) if it holds a tuple and a dict. A list is what a DataLoader
    collates: its first elements go to the required parameters, later ones to optional parameters named like a target.
    Of a mapping, keys that forward doesn't take are dropped if the rest then binds. Tensors move to the model's device.
    A DataLoader gives its first batch; RNGs are put back, but a one-pass stream behind it has lost that batch.
    NormcError if nothing binds.
    """
    if isinstance(batch, DataLoader):
        batch = _first_batch(batch)
    signature = signature_of(unwrapped(model).forward)
    call: Call = (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,), {})
    if signature is not None:
        call = _fit(model, signature, batch)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type == "meta":
        return call
    moved: Call = pytree.tree_map_only(
        Tensor, lambda tensor: tensor if tensor.device.type == "meta" else tensor.to(device), call
    )
    return moved


def _binds(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _first_batch(loader: DataLoader[Any]) -> object:
    # The loader's own fields and generators only: to walk a data set held in memory would take long.
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    iterator = loader._iterator
    with rng_untouched(), untouched(loader.generator, getattr(sampler, "generator", None)):
        batch = next(iter(loader), None)
    loader._iterator = iterator
    if batch is None:
        raise NormcError("the DataLoader given as example inputs is empty", "pass one that yields a batch")
    return batch


def _fit(model: nn.Module, signature: inspect.Signature, batch: object) -> Call:
    match batch:
        case Mapping():
            call = _fit_mapping(signature, batch)
        case (tuple(args), dict(kwargs)) if isinstance(batch, tuple) and all(isinstance(key, str) for key in kwargs):
            call = (args, kwargs)
        case tuple():
            call = _fit_tuple(signature, tuple(batch))
        case list():
            call = _fit_list(signature, batch)
        case _:
            call = ((batch,), {})
    if not _binds(signature, *call):
        name = kind_of(unwrapped(model)).__name__
        raise NormcError(
            f"{name}.forward{signature} can't take these example inputs: {_sketch(batch)}",
            "pass the arguments of one forward call: a tensor, a tuple, or a dict by parameter name",
        )
    return call


def _fit_mapping(signature: inspect.Signature, batch: Mapping[Any, Any]) -> Call:
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    named = {str(key): value for key, value in batch.items()}
    if inspect.Parameter.VAR_KEYWORD in kinds and _binds(signature, (), named):
        return (), named
    accepted = {key: value for key, value in named.items() if key in signature.parameters}
    if accepted or not named or _takes_a_tensor(signature):
        return (), accepted
    return (batch,), {}  # a forward that takes the whole mapping as its one argument


def _takes_a_tensor(signature: inspect.Signature) -> bool:
    first = next(iter(signature.parameters.values()), None)
    annotation = first.annotation if first is not None else inspect.Parameter.empty
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return text.rpartition(".")[2] == "Tensor"


def _fit_tuple(signature: inspect.Signature, batch: tuple[Any, ...]) -> Call:
    """All of it if that binds; else as many as do (the rest is a target that forward doesn't take)."""
    for length in range(len(batch), 0, -1):
        if _binds(signature, batch[:length], {}):
            return batch[:length], {}
    return batch, {}


def _fit_list(signature: inspect.Signature, batch: list[Any]) -> Call:
    places = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    variadic = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())
    if variadic and not places:
        return tuple(batch), {}
    required = sum(parameter.default is parameter.empty for parameter in places)
    if not required or len(batch) < required:
        required = min(len(batch), max(1, required))
    chosen = list(batch[:required])
    for place, value in zip(places[required:], batch[required:], strict=False):
        if not place.name.lower().startswith(_TARGETS):
            break
        chosen.append(value)
    if len(chosen) == 1 and isinstance(chosen[0], Mapping):
        return _fit_mapping(signature, chosen[0])
    return tuple(chosen), {}


def _sketch(value: object) -> str:
    """Types and shapes, short enough for an error."""
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_sketch(item)}" for key, item in list(value.items())[:8]) + "}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}(" + ", ".join(_sketch(item) for item in value[:8]) + ")"
    return type(value).__name__
