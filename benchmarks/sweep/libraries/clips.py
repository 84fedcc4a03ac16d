"""open_clip: images and texts, by configurations of its own."""

from __future__ import annotations

from typing import Any

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of, pixels, tokens

PACKAGES = ("open-clip-torch",)
MODULES = ("open_clip",)
_VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
_TEXT = {"context_length": 12, "vocab_size": 71, "width": 32, "heads": 2, "layers": 2}


def _clip(kind: str = "CLIP", vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None,
          **options: Any) -> Build:  # fmt: skip
    def build(draw: Draw) -> Example:
        model = getattr(library("open_clip"), kind)(
            embed_dim=24, vision_cfg=_VISION | (vision or {}), text_cfg=_TEXT | (text or {}), **options
        )
        return of(model, pixels(), tokens(71, 12))

    return build


def _captioner(draw: Draw) -> Example:
    model = library("open_clip").CoCa(
        embed_dim=24,
        multimodal_cfg={"width": 24, "context_length": 12, "vocab_size": 71, "heads": 2, "layers": 1},
        text_cfg=_TEXT | {"width": 24, "embed_cls": True, "output_tokens": True},
        vision_cfg=_VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    )
    return of(model, pixels(), tokens(71, 12))


MODELS: dict[str, Build] = {
    "clip": _clip(),
    "resnet": _clip(vision={"layers": [1, 1, 1, 1], "width": 16, "patch_size": None}),
    "scaled-cosine": _clip(vision={"norm_kwargs": {"eps": 1e-5}, "ls_init_value": 0.1}),
    "pooled": _clip(vision={"attentional_pool": True, "attn_pooler_heads": 2}),
    "average": _clip(vision={"pool_type": "avg", "final_ln_after_pool": True}, text={"pool_type": "last"}),
    "custom-text": _clip("CustomTextCLIP", text={"proj_bias": True, "no_causal_mask": True, "pool_type": "last"}),
    "siglip": _clip("CustomTextCLIP", init_logit_bias=-10.0),
    "captioner": _captioner,
}
