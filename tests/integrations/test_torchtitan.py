"""torchtitan's container: its checkpoints by torch.distributed.checkpoint, its schedule, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from torch import nn

import normc

pytest.importorskip("torchtitan.components.optimizer")


def made() -> tuple[Any, Any, Any]:
    """torchtitan's Llama 3 of 6 M parameters, its container and its schedule."""
    from torchtitan.components.optimizer import LRSchedulersContainer
    from torchtitan.models.llama3 import llama3_configs

    from normc.integrations.torchtitan import NormcOptimizers

    model = llama3_configs["debugmodel"]("flex").build()
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02, generator=draw)
    container = NormcOptimizers.Config(lr=0.1).build(model_parts=[model])
    rate = LRSchedulersContainer.Config(warmup_steps=2).build(optimizers=container, training_steps=8)
    return model, container, rate


def stepped(model: Any, container: Any, rate: Any, steps: range) -> None:
    """Steps on drawn gradients: flex attention has no backward on a CPU."""
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        container.step()
        container.zero_grad()
        rate.step()


@pytest.mark.slow
def test_a_checkpoint_of_torch_distributed_goes_on_to_the_bit(tmp_path: Path) -> None:
    dcp: Any = torch.distributed.checkpoint
    whole = made()
    stepped(*whole, range(3))
    dcp.save({str(place): part.state_dict() for place, part in enumerate(whole)}, checkpoint_id=tmp_path)
    stepped(*whole, range(3, 6))
    later = made()
    into = {str(place): part.state_dict() for place, part in enumerate(later)}
    dcp.load(into, checkpoint_id=tmp_path)
    for place, part in enumerate(later):
        part.load_state_dict(into[str(place)])
    stepped(*later, range(3, 6))
    for (name, first), second in zip(whole[0].named_parameters(), later[0].parameters(), strict=True):
        assert torch.equal(first, second), name


def test_parts_and_groups_are_refused() -> None:
    from torchtitan.components.optimizer import ParamGroupConfig

    from normc.integrations.torchtitan import NormcOptimizers

    with pytest.raises(normc.NormcError, match=r"2 parts[^$]*fix: use normc without pipeline"):
        NormcOptimizers.Config().build(model_parts=[nn.Linear(2, 2), nn.Linear(2, 2)])
    group = ParamGroupConfig(pattern=".*", optimizer_name="AdamW")
    with pytest.raises(normc.NormcError, match=r"param_groups are given"):
        NormcOptimizers.Config(param_groups=[group]).build(model_parts=[nn.Linear(2, 2)])
