"""Learned queries that gather a picture, prompts, and pictures beside text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.case import Case, pixels, tokens
from tests.zoo.families import TOWER, model
from tests.zoo.seeing import FUSED, VIT, image


def pictured(pictures: int, length: int) -> dict[str, Tensor]:
    """Token ids that begin with places for a picture's features (id 95), and the pictures."""
    ids = tokens(length, 90)
    ids[:, :pictures] = 95
    return {"input_ids": ids, "pixel_values": pixels()}


def prompts() -> dict[str, Tensor]:
    """Pictures, with a point, a box and a rough mask each."""
    return image(64) | {
        "input_points": torch.tensor([[[[9.0, 20.0]]], [[[30.0, 5.0]]]]),
        "input_labels": torch.ones(2, 1, 1, dtype=torch.long),
        "input_boxes": torch.tensor([[[2.0, 3.0, 30.0, 40.0]], [[5.0, 1.0, 20.0, 60.0]]]),
        "input_masks": pixels(16, 1),
    }


def _detr() -> nn.Module:
    from transformers import ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    return model(
        "DetrForObjectDetection", "DetrConfig", backbone_config=backbone, num_queries=6, d_model=32, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        num_labels=5,
    )()  # fmt: skip


GATHERING: dict[str, Case] = {
    # A probe gathers the picture by attention; the two towers meet in a product with a scale and a bias.
    "siglip": Case(
        model(
            "SiglipModel",
            "SiglipConfig",
            text_config=TOWER | {"vocab_size": 96, "max_position_embeddings": 16},
            vision_config=VIT,
        ),
        lambda: {"input_ids": tokens(), "pixel_values": pixels()},
        {
            "logit_*": "scalar - sign",
            "*.token_embedding.weight": "embedding xo colnorm",
            "*.position_embedding.weight": "position xo colnorm",
            "*.patch_embedding.weight": "input oikk spectral",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "text_model.head.weight": "output oi sign",
            "vision_model.head.probe": "token --o rms",
            "*.in_proj_weight": "hidden oi spectral 32 32 32",
            "*.in_proj_bias": "bias o rms 32 32 32",
            "*norm*.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # Object queries are operands of attention, and added to its operands too.
    "hf-detr": Case(
        _detr,
        image,
        {
            "*.embedder.embedder.convolution.weight": "input oikk spectral",
            "*.convolution.weight": "hidden oikk spectral",
            "model.query_position_embeddings.weight": "token xo rms",
            "model.input_projection.weight": "hidden oikk spectral",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "class_labels_classifier.weight": "output oi sign",
            "bbox_predictor.layers.[01].weight": "hidden oi spectral",
            "bbox_predictor.layers.2.weight": "output oi sign",
            "*norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    "blip-2": Case(
        model(
            "Blip2ForConditionalGeneration",
            "Blip2Config",
            vision_config=VIT,
            qformer_config=TOWER | {"vocab_size": 96, "encoder_hidden_size": 32, "max_position_embeddings": 16},
            text_config={
                "model_type": "opt",
                "num_hidden_layers": 1,
                "hidden_size": 32,
                "num_attention_heads": 4,
                "ffn_dim": 48,
                "vocab_size": 96,
                "word_embed_proj_dim": 32,
                "max_position_embeddings": 40,
            },
            num_query_tokens=4,
            image_token_index=95,
        ),
        lambda: pictured(4, 8),
        FUSED
        | {
            "query_tokens": "token -xo rms",
            "*.class_embedding": "token --o rms",
            "*.position_embedding": "position -xo colnorm",
            "*.patch_embedding.weight": "input oikk spectral",
            "*.projection.weight": "hidden oi spectral",
            "*.query.weight": "hidden oi spectral",
            "*.key.weight": "hidden oi spectral",
            "*.value.weight": "hidden oi spectral",
            "*.dense.weight": "hidden oi spectral",
            "language_projection.weight": "hidden oi spectral",
            "*.embed_tokens.weight": "output oi sign",
            "*.embed_positions.weight": "position xo colnorm",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "*ayer*orm*.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # The last layer's features go on as they are before the last norm, and without the class token.
    "llava": Case(
        model(
            "LlavaForConditionalGeneration",
            "LlavaConfig",
            vision_config=VIT | {"model_type": "clip_vision_model", "projection_dim": 16},
            text_config=TOWER | {"model_type": "llama", "vocab_size": 96},
            image_token_index=95,
            vision_feature_layer=-1,
        ),
        lambda: pictured(16, 20),
        {
            "*.embed_tokens.weight": "embedding xo colnorm",
            "*.class_embedding": "token o rms",
            "*.patch_embedding.weight": "input oikk spectral",
            "*.position_embedding.weight": "position xo colnorm",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "*.linear_?.weight": "hidden oi spectral",
            "*norm*.weight": "gain o rms",
            "*.post_layernorm.*": "unused",
            "*.pre_layrnorm.weight": "gain o rms",
            "lm_head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    # Rows of rel_pos belong to pairs of places, and queries are multiplied with them. What kind a point or corner is
    # is added to its sines. A mask is a product of two networks' results, so both end in outputs. Of four predicted
    # qualities the last three are returned.
    "sam": Case(
        model(
            "SamModel",
            "SamConfig",
            vision_config={
                "hidden_size": 32,
                "output_channels": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 16,
                "mlp_dim": 48,
                "window_size": 2,
                "global_attn_indexes": [1],
                "num_pos_feats": 16,
            },
            prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 8},
            mask_decoder_config={
                "hidden_size": 32,
                "mlp_dim": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "iou_head_hidden_dim": 32,
            },
        ),
        prompts,
        {
            "shared_image_embedding.positional_embedding": "input io spectral",
            "vision_encoder.pos_embed": "position -xxo colnorm",
            "*.patch_embed.projection.weight": "input oikk spectral",
            "*.rel_pos_?": "position xo colnorm",
            "*.qkv.weight": "hidden oi spectral 32 32 32",
            "*.qkv.bias": "bias o rms 32 32 32",
            "*.attn.proj.weight": "hidden oi spectral",
            "*.lin?.weight": "hidden oi spectral",
            "*.neck.conv?.weight": "hidden oikk spectral",
            "*.mask_embed.conv1.weight": "input oikk spectral",
            "*.mask_embed.conv[23].weight": "hidden oikk spectral",
            "*.no_mask_embed.weight": "unused",
            "*.point_embed.?.weight": "bias -o rms",
            "*.not_a_point_embed.weight": "token -o rms",
            "*.iou_token.weight": "token -o rms",
            "*.mask_tokens.weight": "token xo rms",
            "*_proj.weight": "hidden oi spectral",
            "*.upscale_conv1.weight": "hidden iokk spectral",
            "*.upscale_conv2.weight": "output iokk sign",
            "*.proj_in.weight": "hidden oi spectral",
            "*.layers.?.weight": "hidden oi spectral",
            "*.proj_out.weight": "output oi sign",
            "*.iou_prediction_head.proj_out.weight": "output oi sign 1 3",
            "*.iou_prediction_head.proj_out.bias": "bias o rms 1 3",
            "*norm*.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
}
