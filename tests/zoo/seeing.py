"""Vision models of transformers: registers, relative tables, squeezes, masks, video."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.zoo.case import Case, pixels
from tests.zoo.families import model

VIT: dict[str, Any] = {
    "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
STAGES: dict[str, Any] = {"depths": [1, 1], "hidden_sizes": [16, 32], "num_labels": 10}
VIT_LIKE = {
    "*.cls_token": "token --o rms",
    "*.position_embeddings": "position -xo colnorm",
    "*patch_embeddings.projection.weight": "input oikk spectral",
    "*_proj.weight": "hidden oi spectral",
    "*.fc?.weight": "hidden oi spectral",
    "*norm*.weight": "gain o rms",
    "*bias": "bias o rms",
}
CLASSES = {"classifier.weight": "output oi sign"}
FUSED = {"*.qkv.weight": "hidden oi spectral 32 32 32", "*.qkv.bias": "bias o rms 32 32 32"}


def image(size: int = 32) -> dict[str, Tensor]:
    """Images alone."""
    return {"pixel_values": pixels(size)}


SEEING: dict[str, Case] = {
    # Nothing is masked here: the mask's token is in no use.
    "dinov2": Case(
        model(
            "Dinov2WithRegistersForImageClassification",
            "Dinov2WithRegistersConfig",
            **VIT,
            mlp_ratio=2,
            num_labels=10,
            use_swiglu_ffn=True,
        ),
        image,
        {key: value for key, value in VIT_LIKE.items() if key != "*.fc?.weight"}
        | CLASSES
        | {
            "*.mask_token": "unused",
            "*.register_tokens": "token -xo rms",
            "*.lambda1": "gain o rms",
        },
    ),
    "beit": Case(
        model(
            "BeitForImageClassification",
            "BeitConfig",
            **VIT,
            num_labels=10,
            use_relative_position_bias=True,
            use_mask_token=False,
        ),
        image,
        {key: value for key, value in VIT_LIKE.items() if key != "*.position_embeddings"}
        | CLASSES
        | {"*.relative_position_bias_table": "position xo colnorm", "*.lambda_?": "gain o rms"},
    ),
    # q, k and v of every head side by side, normalised over the batch; a bias for every head and distance.
    "hf-levit": Case(
        model(
            "LevitForImageClassification",
            "LevitConfig",
            image_size=96,
            hidden_sizes=[32, 48, 64],
            num_attention_heads=[2, 3, 4],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
            num_labels=10,
        ),
        lambda: image(96),
        {
            "*.embedding_layer_1.convolution.weight": "input oikk spectral",
            "*.convolution.weight": "hidden oikk spectral",
            "*.attention_biases": "position ox colnorm",
            "*.linear.weight": "hidden oi spectral",
            "*.stages.0.*.queries_keys_values.linear.weight": "hidden oi spectral ~16 ~16 ~32",
            "*.stages.1.*.queries_keys_values.linear.weight": "hidden oi spectral ~24 ~24 ~48",
            "*.stages.2.*.queries_keys_values.linear.weight": "hidden oi spectral ~32 ~32 ~64",
            "*.stages.0.*.keys_values.linear.weight": "hidden oi spectral ~32 ~128",
            "*.stages.1.*.keys_values.linear.weight": "hidden oi spectral ~48 ~192",
            "*.stages.0.*.queries_keys_values.batch_norm.bias": "bias o rms ~16 ~16 ~32",
            "*.stages.0.*.queries_keys_values.batch_norm.weight": "gain o rms ~16 ~16 ~32",
            "*.stages.1.*.queries_keys_values.batch_norm.bias": "bias o rms ~24 ~24 ~48",
            "*.stages.1.*.queries_keys_values.batch_norm.weight": "gain o rms ~24 ~24 ~48",
            "*.stages.2.*.queries_keys_values.batch_norm.bias": "bias o rms ~32 ~32 ~64",
            "*.stages.2.*.queries_keys_values.batch_norm.weight": "gain o rms ~32 ~32 ~64",
            "*.stages.0.*.keys_values.batch_norm.bias": "bias o rms ~32 ~128",
            "*.stages.0.*.keys_values.batch_norm.weight": "gain o rms ~32 ~128",
            "*.stages.1.*.keys_values.batch_norm.bias": "bias o rms ~48 ~192",
            "*.stages.1.*.keys_values.batch_norm.weight": "gain o rms ~48 ~192",
            "*norm.weight": "gain o rms",
            "classifier.linear.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "convnextv2": Case(
        model("ConvNextV2ForImageClassification", "ConvNextV2Config", **STAGES, num_stages=2),
        image,
        CLASSES
        | {
            "*.patch_embeddings.weight": "input oikk spectral",
            "*.dwconv.weight": "depthwise bikk rownorm",
            "*.pwconv?.weight": "hidden oi spectral",
            "*.grn.weight": "gain ---o rms",
            "*.grn.bias": "bias ---o rms",
            "*.downsampling_layer.0.weight": "gain o rms",
            "*.downsampling_layer.1.weight": "hidden oikk spectral",
            "*norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # Groups of eight channels, and a squeeze.
    "hf-regnet": Case(
        model("RegNetForImageClassification", "RegNetConfig", **STAGES, embedding_size=16, groups_width=8),
        image,
        {
            "*.embedder.convolution.weight": "input oikk spectral",
            "*.convolution.weight": "hidden oikk spectral",
            "*.stages.0.*.layer.1.convolution.weight": "hidden oikk spectral 8 8",
            "*.stages.1.*.layer.1.convolution.weight": "hidden oikk spectral 8 8 8 8",
            "*.attention.?.weight": "hidden oikk spectral",
            "*.normalization.weight": "gain o rms",
            "classifier.1.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "mobilenet-v2": Case(
        model(
            "MobileNetV2ForImageClassification",
            "MobileNetV2Config",
            depth_multiplier=0.25,
            num_labels=10,
        ),
        image,
        CLASSES
        | {
            "*.first_conv.convolution.weight": "input oikk spectral",
            "*.conv_3x3.convolution.weight": "depthwise bikk rownorm",
            "*.convolution.weight": "hidden oikk spectral",
            "*.normalization.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # Keys and values of a smaller picture, a depthwise convolution between the matrices, a head for every pixel.
    "segformer": Case(
        model(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[16, 32],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=24,
            num_labels=5,
        ),
        image,
        {
            "*.stages.0.patch_embeddings.proj.weight": "input oikk spectral",
            "*.stages.1.patch_embeddings.proj.weight": "hidden oikk spectral",
            "*.sequence_reduction.weight": "hidden oikk spectral",
            "*.dwconv.weight": "depthwise bikk rownorm",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "*.linear_projections.?.proj.weight": "hidden oi spectral",
            "*.linear_fuse.weight": "hidden oikk spectral",
            "decode_head.classifier.weight": "output oikk sign",
            "*norm*.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # Frozen sines as places; the class token takes the first of them before it is joined.
    "vit-mae": Case(
        model(
            "ViTMAEForPreTraining",
            "ViTMAEConfig",
            **VIT,
            decoder_num_attention_heads=4,
            decoder_hidden_size=24,
            decoder_num_hidden_layers=1,
            decoder_intermediate_size=32,
        ),
        image,
        VIT_LIKE
        | {
            "decoder.mask_token": "token --o rms",
            "decoder.decoder_pos_embed": "position -xo colnorm",
            "decoder.decoder_embed.weight": "hidden oi spectral",
            "decoder.decoder_pred.weight": "output oi sign",
        },
    ),
    "timesformer": Case(
        model("TimesformerForVideoClassification", "TimesformerConfig", **VIT, num_frames=4, num_labels=10),
        lambda: {"pixel_values": pixels()[:, None].expand(2, 4, 3, 32, 32)},
        {key: value for key, value in VIT_LIKE.items() if not key.startswith(("*_proj", "*.fc"))}
        | CLASSES
        | FUSED
        | {
            "*.time_embeddings": "position -xo colnorm",
            "*dense.weight": "hidden oi spectral",
        },
    ),
    # Positions are a small network of fixed coordinates; each head's temperature passes an exponential.
    "swinv2": Case(
        model(
            "Swinv2ForImageClassification",
            "Swinv2Config",
            image_size=32,
            patch_size=4,
            embed_dim=16,
            depths=[1, 1],
            num_heads=[2, 4],
            window_size=4,
            num_labels=10,
        ),
        image,
        CLASSES
        | {
            "*patch_embeddings.projection.weight": "input oikk spectral",
            "*.logit_scale": "state o-- sign",
            "*.continuous_position_bias_mlp.0.weight": "input oi spectral",
            "*.continuous_position_bias_mlp.2.weight": "hidden oi spectral",
            "*.query.weight": "hidden oi spectral",
            "*.key.weight": "hidden oi spectral",
            "*.value.weight": "hidden oi spectral",
            "*.dense.weight": "hidden oi spectral",
            "*.reduction.weight": "hidden oi spectral",
            "*norm*.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
}
