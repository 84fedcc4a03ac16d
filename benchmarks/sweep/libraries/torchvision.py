"""torchvision: classifiers, segmentation, detection, video. Weights are never loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of, pixels

PACKAGES = ("torchvision",)
MODULES = ("torchvision.models",)


def _classifier(name: str, size: int = 64, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        return of(getattr(library("torchvision.models"), name)(num_classes=7, **options), pixels(size))

    return build


def _segmenter(name: str) -> Build:
    def build(draw: Draw) -> Example:
        home = library("torchvision.models.segmentation")
        return of(getattr(home, name)(weights=None, weights_backbone=None, num_classes=5, aux_loss=True), pixels(64))

    return build


def _boxes(draw: Draw, masks: bool, keypoints: bool) -> list[dict[str, Tensor]]:
    found = []
    for _ in range(2):
        corner = torch.rand(3, 2) * 20
        target = {"boxes": torch.cat([corner, corner + 16], 1), "labels": torch.randint(1, 5, (3,))}
        if masks:
            target["masks"] = (torch.rand(3, 64, 64) > 0.5).to(torch.uint8)
        if keypoints:
            target["keypoints"] = torch.cat([torch.rand(3, 17, 2) * 60, torch.ones(3, 17, 1)], 2)
        found.append(target)
    return found


def _detector(name: str, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        home = library("torchvision.models.detection")
        fixed = {"min_size": 64, "max_size": 64} if "ssd" not in name else {}
        classes = {} if "keypoint" in name else {"num_classes": 5}
        model = getattr(home, name)(weights=None, weights_backbone=None, **classes, **fixed, **options)
        return of(model, list(pixels(64)), _boxes(draw, "mask" in name, "keypoint" in name))

    return build


def _video(name: str, frames: int, size: int) -> Build:
    def build(draw: Draw) -> Example:
        return of(
            getattr(library("torchvision.models.video"), name)(num_classes=7), torch.randn(2, 3, frames, size, size)
        )

    return build


def _flow(draw: Draw) -> Example:
    model = library("torchvision.models.optical_flow").raft_small(weights=None)
    return of(model, torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128), num_flow_updates=2)


def _multiscale(draw: Draw) -> Example:
    home = library("torchvision.models.video.mvit")
    stages = ((1, 16, 16, (1, 1, 1)), (2, 16, 32, (1, 2, 2)), (2, 32, 32, (1, 1, 1)))
    settings = [home.MSBlockConfig(count, inputs, outputs, [3, 3, 3], [3, 3, 3], list(stride), [1, 2, 2])
                for count, inputs, outputs, stride in stages]  # fmt: skip
    model = home.MViT(
        (32, 32), 4, settings, residual_pool=True, residual_with_cls_embed=draw.random() < 0.5, rel_pos_embed=True,
        proj_after_attn=draw.random() < 0.5, num_classes=7,
    )  # fmt: skip
    return of(model, torch.randn(2, 3, 4, 32, 32))


MODELS: dict[str, Build] = {
    "alexnet": _classifier("alexnet"),
    "vgg11-bn": _classifier("vgg11_bn"),
    "resnet18": _classifier("resnet18"),
    "resnext50": _classifier("resnext50_32x4d"),
    "wide-resnet50": _classifier("wide_resnet50_2"),
    "densenet121": _classifier("densenet121"),
    "squeezenet": _classifier("squeezenet1_1"),
    "googlenet": _classifier("googlenet", init_weights=False),
    "inception": _classifier("inception_v3", 128, init_weights=False),
    "mobilenet-v2": _classifier("mobilenet_v2"),
    "mobilenet-v3": _classifier("mobilenet_v3_small"),
    "mnasnet": _classifier("mnasnet0_5"),
    "shufflenet": _classifier("shufflenet_v2_x0_5"),
    "efficientnet-b0": _classifier("efficientnet_b0"),
    "efficientnet-v2": _classifier("efficientnet_v2_s"),
    "regnet-y": _classifier("regnet_y_400mf"),
    "convnext": _classifier("convnext_tiny"),
    "vit": _classifier("vit_b_32", image_size=64),
    "swin": _classifier("swin_t"),
    "swin-v2": _classifier("swin_v2_t"),
    "fcn": _segmenter("fcn_resnet50"),
    "deeplab": _segmenter("deeplabv3_mobilenet_v3_large"),
    "lraspp": lambda draw: of(
        library("torchvision.models.segmentation").lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=5
        ),
        pixels(64),
    ),
    "faster-rcnn": _detector("fasterrcnn_mobilenet_v3_large_320_fpn"),
    "faster-rcnn-v2": _detector("fasterrcnn_resnet50_fpn_v2"),
    "mask-rcnn": _detector("maskrcnn_resnet50_fpn"),
    "keypoint-rcnn": _detector("keypointrcnn_resnet50_fpn"),
    "retinanet": _detector("retinanet_resnet50_fpn"),
    "fcos": _detector("fcos_resnet50_fpn"),
    "ssd": _detector("ssd300_vgg16"),
    "ssdlite": _detector("ssdlite320_mobilenet_v3_large"),
    "r3d": _video("r3d_18", 4, 32),
    "mc3": _video("mc3_18", 4, 32),
    "mvit": _multiscale,
    "swin3d": _video("swin3d_t", 4, 64),
    "raft": _flow,
}
