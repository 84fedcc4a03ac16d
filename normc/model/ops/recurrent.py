"""LSTM, GRU and plain recurrent layers and cells, kept whole by the tracer: gates are blocks along the output axis."""

from __future__ import annotations

from typing import Any

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.partners import partners_of
from normc.model.ops.slices import split_leading
from normc.model.ops.value import Value, as_feature, fresh_dim
from normc.plans.row import AxisUse

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")
def layers(call: Call) -> Result:
    """params holds w_ih, w_hh (and b_ih, b_hh, and a projection) for every layer and direction."""
    gates = GATES[call.name.rsplit(".", 1)[-1]]
    weights = list(call["params"])
    biased = bool(call["has_biases"])
    width = 4 if biased else 2
    count = int(call["num_layers"]) * (2 if call["bidirectional"] else 1)
    if len(weights) == count * (width + 1):
        width += 1
    data = call.first()  # `input`, or `data` of a packed sequence
    call.data(data, 0)
    _start(call, stacked=True)
    directions = 2 if call["bidirectional"] else 1
    for start in range(0, len(weights), width):
        first = start // width < directions
        _cell(call, weights[start : start + width], gates, biased, data if first else None)
    return [_result(shape) for shape in call.shapes]


@rule("aten.lstm_cell", "aten.gru_cell", "aten.rnn_tanh_cell", "aten.rnn_relu_cell", "aten._thnn_fused_lstm_cell")
def cell(call: Call) -> Result:
    gates = GATES[call.name.rsplit(".", 1)[-1].removesuffix("_cell").removeprefix("_thnn_fused_")]
    weights = [call["w_ih"], call["w_hh"], *(b for b in (call["b_ih"], call["b_hh"]) if b is not None)]
    call.data(call["input"], 0)
    _start(call, stacked=False)
    _cell(call, weights, gates, len(weights) == 4, call["input"])
    results = [_result(shape) for shape in call.shapes]
    return results if len(results) > 1 else results[0]


def _start(call: Call, stacked: bool) -> None:
    """The state at first. A weight there is a learned operand, if stacked one for each layer and direction."""
    states = call["hx"] or [call["cx"]]
    for slot, state in enumerate(states if isinstance(states, (list, tuple)) else [states], 1):
        value = call.value(state)
        if value.kind != "weight":
            call.consume(state, slot)
            continue
        along: list[AxisUse] = ["index"] * (len(value.dims) - 1)
        if stacked:
            along[:1] = ["block"]
        call.meet(value, [*along, "out"], "operand", state)


def _cell(call: Call, weights: list[Any], gates: int, biased: bool, data: Any) -> None:
    """`data` is what the input weight meets, None where that is another layer's output."""
    matrices = weights[:2]
    for matrix, operand in zip(matrices, (data, None), strict=True):
        value = call.value(matrix)
        if value.kind == "weight":
            call.meet(split_leading(value, 0, gates), ["block", "out", "in"], "contract", operand)
    if len(weights) % 2:
        call.meet(call.value(weights[-1]), ["out", "in"], "contract", None)
    for matrix, bias in zip(matrices, weights[2:4] if biased else [], strict=False):
        value = call.value(bias)
        if value.kind == "weight":
            gates_of = Value("data", call.value(matrix).dims[:1])
            call.meet(value, ["out"], "shift", call.first(), partners=partners_of(value, gates_of, [0]))


def _result(shape: tuple[int, ...]) -> Value:
    dims = [fresh_dim(size) for size in shape]
    return Value("data", (*dims[:-1], as_feature(dims[-1])), touched=True)
