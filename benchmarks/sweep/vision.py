"""A torchvision whose compiled part doesn't fit this torch: timm and transformers only need to import it."""

from __future__ import annotations

import functools
import importlib
import sys

import numpy as np
import torch
from torch import Tensor

_KEPT: list[torch.library.Library] = []


@functools.cache
def importable_torchvision() -> bool:
    """Whether torchvision is there and imports; two ops that its import may lack are declared, one of them made."""
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
        declared.impl("nms", _nms, "CPU")
        _KEPT.append(declared)
        importlib.import_module("torchvision")
        for place in ("extension", "ops.boxes"):
            importlib.import_module(f"torchvision.{place}").__dict__["_assert_has_ops"] = lambda: None
    return True


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The boxes that overlap none of a higher score by more than the threshold, best first."""
    corner, far = boxes[:, :2].numpy(), boxes[:, 2:].numpy()
    area = (far - corner).prod(1)
    waiting = scores.argsort(descending=True).numpy()
    kept: list[int] = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        inside = np.minimum(far[best], far[waiting]) - np.maximum(corner[best], corner[waiting])
        common = inside.clip(min=0).prod(1)
        waiting = waiting[common <= iou_threshold * (area[best] + area[waiting] - common)]
    return torch.tensor(kept, dtype=torch.long)
