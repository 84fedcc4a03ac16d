"""timm's registry: what it is given, layer decay in the plan's scales, and what it is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normc
from benchmarks.sweep.vision import importable_torchvision

pytest.importorskip("timm") if importable_torchvision() else pytest.skip("no torchvision", allow_module_level=True)


def resnet() -> nn.Module:
    import timm

    torch.manual_seed(0)
    model: nn.Module = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    return model


def test_bare_groups_are_refused() -> None:
    from timm.optim import create_optimizer_v2

    import normc.integrations.timm  # registers

    with pytest.raises(normc.NormcError, match=r"no model[^$]*fix: pass param_group_fn"):
        create_optimizer_v2(resnet(), "normc", lr=0.1)


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5])
def test_a_decay_that_is_none_is_refused(factor: float) -> None:
    from normc.integrations.timm import layer_decay

    with pytest.raises(normc.NormcError, match=r"layer_decay is"):
        layer_decay(factor)


def test_layers_decay_in_scale_and_target() -> None:
    from timm.optim import create_optimizer_v2, param_groups_layer_decay

    from normc.integrations.timm import layer_decay

    model = resnet()
    whole = normc.plan(model)
    opt = create_optimizer_v2(model, "normc", lr=0.1, weight_decay=0.1, param_group_fn=layer_decay(0.5))
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(set(scales.values())) > 2
    for name, parameter in model.named_parameters():
        row, plain = opt.plan[name], whole[name]
        assert row.scale.value == pytest.approx(scales[id(parameter)] * plain.scale.value, rel=1e-12)
        assert row.target == pytest.approx(scales[id(parameter)] * plain.target, rel=1e-12)
    assert opt.param_groups[0]["weight_decay"] == 0.1
    assert len({group["lr"] for group in opt.param_groups}) == 1
