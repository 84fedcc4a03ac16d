"""Size costs nothing: no weight of a model on meta is ever in memory."""

from __future__ import annotations

import resource
import time

import pytest
import torch

from normc.model.trace.frontend import trace
from normc.model.trace.own_inputs import own_inputs


@pytest.mark.slow
def test_seventy_billion_parameters_on_meta() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) > 60e9
    call = own_inputs(model)
    assert call is not None
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = trace(model, *call)
    assert time.process_time() - started < 30  # 4 s where nothing else runs
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # in KB
    assert len(graph.nodes) == 723 and all(node.users for node in graph.nodes.values())
