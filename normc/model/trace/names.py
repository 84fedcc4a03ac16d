"""The model under its wrappers, and names for the tensors that its forward is called with."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from normc.model.trace.foreign import ask, signature_of
from normc.model.trace.graph import ModelGraph

# What wrappers call what they wrap: these under names of their own, and those by type.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module whose forward is the model's own: inside torch.compile and data-parallel wrappers."""
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            inner: object = model.module
        elif "torch._dynamo.eval_frame" in sys.modules:
            inner = ask(model, "_orig_mod")
        else:
            return model
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def named_parameters(model: nn.Module, remove_duplicate: bool = True) -> list[tuple[str, nn.Parameter]]:
    """As the model's own, in the same order, by names without those that wrappers give to what they wrap."""
    wrapped = {path for path, _ in model.named_modules(remove_duplicate=False) if _is_wrapped(path, model)}
    named = list(model.named_parameters(remove_duplicate=remove_duplicate))
    bare = [".".join(_unwrapped_path(name, wrapped)) for name, _ in named]
    if len(set(bare)) < len(bare):
        return named
    return [(name, parameter) for name, (_, parameter) in zip(bare, named, strict=True)]


def under_bare_names(graph: ModelGraph, model: nn.Module) -> ModelGraph:
    """The model's graph, its parameters by their names without those that wrappers give (`named_parameters`)."""
    given = (name for name, _ in model.named_parameters(remove_duplicate=False))
    bare = dict(zip(given, (name for name, _ in named_parameters(model, remove_duplicate=False)), strict=True))
    return graph if all(name == own for name, own in bare.items()) else _renamed(graph, bare)


def _renamed(graph: ModelGraph, names: Mapping[str, str]) -> ModelGraph:
    for node in graph.graph.find_nodes(op="placeholder"):
        if "param" in node.meta:
            node.meta["param"] = names[node.meta["param"]]
    return replace(
        graph,
        parameters=tuple(
            replace(parameter, name=names[parameter.name], aliases=tuple(map(names.__getitem__, parameter.aliases)))
            for parameter in graph.parameters
        ),
        nodes=MappingProxyType({names[name]: node for name, node in graph.nodes.items()}),
        others=tuple(
            replace(path, graph=_renamed(path.graph, names), reads=tuple(map(names.__getitem__, path.reads)))
            for path in graph.others
        ),
    )


def _is_wrapped(path: str, model: nn.Module) -> bool:
    """Whether a wrapper holds the module there."""
    owner, _, own = path.rpartition(".")
    return own in _WRAPPED or (own == "module" and isinstance(model.get_submodule(owner), _WRAPPERS))


def _unwrapped_path(name: str, wrapped: set[str]) -> Iterator[str]:
    parts = name.split(".")
    for place, part in enumerate(parts):
        if ".".join(parts[: place + 1]) not in wrapped:
            yield part


def call_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Every tensor of a call with a path: `input_ids`, `batch.0`, `args.1` where the signature has no name for it."""
    signature = signature_of(unwrapped(model).forward)
    positional = [
        parameter.name
        for parameter in (signature.parameters.values() if signature is not None else ())
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    named = [(positional[at] if at < len(positional) else f"args.{at}", value) for at, value in enumerate(args)]
    found: list[tuple[str, Tensor]] = []
    for name, value in [*named, *kwargs.items()]:
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, Tensor):
                found.append((".".join([name, *(_step(key) for key in path)]), leaf))
    return found


def _step(key: Any) -> str:
    for attribute in ("idx", "key", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
