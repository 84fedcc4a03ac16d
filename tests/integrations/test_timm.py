"""timm's registry: what it is given, layer decay in the plan's scales, and what it is told."""

from __future__ import annotations

from typing import ClassVar

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


class Placed(nn.Module):
    """A layer behind a learned offset, which is not to be decayed, nor is what the second name matches."""

    default_cfg: ClassVar = {"input_size": (3, 4, 4)}

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.first, self.last = nn.Parameter(torch.zeros(48)), nn.Linear(48, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x.flatten(1) + self.offset).relu())

    def no_weight_decay(self) -> set[str]:
        return {"offset", "last.*", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": "^offset|^first", "blocks": "^last"}


@pytest.mark.parametrize("layers", [False, True])
def test_what_a_model_names_is_not_decayed(layers: bool) -> None:
    from timm.optim import create_optimizer_v2

    from normc.integrations.timm import layer_decay, whole_model

    model = Placed()
    function = layer_decay(0.5) if layers else whole_model

    def made(recipe: str, **given: object) -> dict[str, float]:
        opt = create_optimizer_v2(model, "normc", lr=0.1, recipe=recipe, param_group_fn=function, **given)
        return {row.name: row.decay for row in opt.plan}

    own = {"offset": 0.0, "first.weight": 1.0, "first.bias": 1.0, "last.weight": 0.0, "last.bias": 0.0}
    assert made("adamw", weight_decay=0.1) == own
    assert made("adamw", weight_decay=0.1, overrides={"last.weight": {"weight_decay": 1}}) == own | {"last.weight": 1.0}
    assert made("scion") == dict.fromkeys(own, 1.0)


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
