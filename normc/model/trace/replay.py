"""Executes a model graph on real tensors: what a trace means, for tests and for looking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from normc.errors import NormcError
from normc.model.trace.graph import ModelGraph
from normc.model.trace.names import call_names, named_parameters


def feeds_of(
    graph: ModelGraph, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Copies of the model's tensors and of the inputs, by the name of the placeholder that each is for."""
    tensors: dict[tuple[str, str], Tensor] = {}
    tensors |= {("input", name): value for name, value in call_names(model, args, kwargs)}
    tensors |= {("param", name): value for name, value in (*named_parameters(model), *model.named_parameters())}
    tensors |= {("buffer", name): value for name, value in model.named_buffers()}
    found: dict[str, Tensor] = {}
    copies: dict[int, Tensor] = {}
    for node in graph.graph.find_nodes(op="placeholder"):
        kind = next(kind for kind in ("param", "buffer", "input") if kind in node.meta)
        real = tensors.get((kind, node.meta[kind]))
        if real is not None:
            if id(real) not in copies:
                copies[id(real)] = real.detach().clone()
            found[node.name] = copies[id(real)]
    return found


def replay(graph: ModelGraph, feeds: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """The outputs of the graph. `feeds` holds a tensor for each placeholder, by node name; in-place ops write to them.

    Constants that the trace has kept need no feed. NormcError if a placeholder has neither.
    """
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = _fed(node, feeds)
            elif node.op == "output":
                return tuple(values[source] for source in node.args[0])
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
    raise NormcError(f"the graph of {graph.model} has no output", "trace the model again")


def _fed(node: fx.Node, feeds: Mapping[str, Tensor]) -> Tensor:
    if node.name in feeds:
        return feeds[node.name]
    if isinstance(kept := node.meta.get("concrete"), Tensor):
        return kept.clone()
    raise NormcError(f"no tensor for the placeholder {node.name}", f"add one to feeds under {node.name!r}")
