"""A torchvision whose compiled part doesn't fit this torch: timm and transformers only need to import it."""

from __future__ import annotations

import functools
import importlib
import sys

import torch

_KEPT: list[torch.library.Library] = []


@functools.cache
def importable_torchvision() -> bool:
    """Whether torchvision is there and imports; the two schemas that its import may lack are declared."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return False
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        declared = torch.library.Library("torchvision", "DEF")
        declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(declared)
        importlib.import_module("torchvision")
    return True
