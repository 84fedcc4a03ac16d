"""What a trace yields: a torch.fx graph of ATen calls, and who is who among its placeholders.

Every node of `graph` carries in `meta`:
  val      a FakeTensor, or a tuple or list of them, or a number: the node's value, without data
  module   the path of the innermost module that ran it ("transformer.h.0.attn"; "" is the model itself)
  source   where the model's own code called it: "modeling_gpt2.py:312" ("" if no frame outside torch was found)
  grad     whether autograd was recording
  backward present (True) where autograd's engine ran the op: part of a derivative that the forward asks for
  function present (True) where the forward of a custom autograd function ran the op
  concrete a real tensor or number where the value is known (it depends on no parameter, and is small); else absent
  guessed  present where a data-dependent answer had to be made up; says which
Placeholders carry one of `param`, `buffer`, `input` (its name or path) instead of source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from normc.nodes import op_name


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter tensor of a model, under its first name; `aliases` are the other names it is registered under."""

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """A traced model. `nodes` maps every parameter's name to its placeholder; every parameter has one.

    `others` are the paths on which parameters are read that no gradient reaches on this one.
    """

    model: str
    graph: fx.Graph
    parameters: tuple[Parameter, ...]
    nodes: Mapping[str, fx.Node]
    guesses: tuple[str, ...] = ()
    frontend: str = "recorder"
    others: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self, node: fx.Node) -> str:
        """`aten.addmm (modeling_gpt2.py:312)`, for evidence and errors."""
        source = node.meta.get("source", "")
        return f"{op_name(node)} ({source})" if source else op_name(node)


@dataclass(frozen=True, slots=True)
class Path:
    """Another path through a model's code: its graph, the parameters that it was traced for, and how it differs."""

    graph: ModelGraph
    reads: tuple[str, ...]
    why: str


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's (first) value."""
    val = node.meta.get("val")
    if isinstance(val, (tuple, list)) and val:
        val = val[0]
    return tuple(val.shape) if isinstance(val, torch.Tensor) else ()


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by their schema names, defaults too."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(i): arg for i, arg in enumerate(node.args)} | dict(node.kwargs)
    named: dict[str, Any] = {}
    for place, argument in enumerate(node.target._schema.arguments):
        if place < len(node.args):
            named[argument.name] = node.args[place]
        elif argument.name in node.kwargs:
            named[argument.name] = node.kwargs[argument.name]
        else:
            named[argument.name] = argument.default_value
    return named
