"""segmentation-models-pytorch: every decoder, on encoders without weights."""

from __future__ import annotations

from typing import Any

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of, pixels

PACKAGES = ("segmentation-models-pytorch",)
MODULES = ("segmentation_models_pytorch",)


def _decoder(kind: str, encoder: str, size: int = 64, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        home = library("segmentation_models_pytorch")
        return of(getattr(home, kind)(encoder, encoder_weights=None, classes=3, **options), pixels(size))

    return build


MODELS: dict[str, Build] = {
    "unet": _decoder("Unet", "resnet18", decoder_attention_type="scse"),
    "unet++": _decoder("UnetPlusPlus", "mobilenet_v2"),
    "fpn": _decoder("FPN", "efficientnet-b0"),
    "deeplab-v3": _decoder("DeepLabV3", "resnet18"),
    "deeplab-v3+": _decoder("DeepLabV3Plus", "mobilenet_v2"),
    "linknet": _decoder("Linknet", "resnet18"),
    "manet": _decoder("MAnet", "resnet18"),
    "pan": _decoder("PAN", "resnet18", size=128),
    "pspnet": _decoder("PSPNet", "resnet18", aux_params={"classes": 4}),
    "segformer": _decoder("Segformer", "mit_b0"),
    "upernet": _decoder("UPerNet", "mit_b0"),
    "dpt": lambda draw: of(
        library("segmentation_models_pytorch").DPT("tu-vit_tiny_patch16_224", encoder_weights=None, classes=3),
        pixels(224),
    ),
}
