"""From a model to its graph: one run on fake tensors, every ATen call a node."""

from normc.trace.effects import after_write
from normc.trace.first_forward import on_first_forward
from normc.trace.frontend import find_ladder, trace
from normc.trace.graph import ModelGraph, Parameter, op_name
from normc.trace.inputs import example_inputs
from normc.trace.own_inputs import own_inputs
from normc.trace.replay import feeds_of, replay

__all__ = [
    "ModelGraph",
    "Parameter",
    "after_write",
    "example_inputs",
    "feeds_of",
    "find_ladder",
    "on_first_forward",
    "op_name",
    "own_inputs",
    "replay",
    "trace",
]
