"""Models of sound: convolutions with a norm of their own, masked places, codebooks, spectrograms beside text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.zoo.case import Case, tokens
from tests.zoo.families import TOWER, model

PAIR: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "use_cache": False,
}  # fmt: skip
ENCODER: dict[str, Any] = {
    "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
WAVE: dict[str, Any] = ENCODER | {
    "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "vocab_size": 40,
}  # fmt: skip
# The positions are a grouped convolution; its window's places have a size each (weight norm over the other axes).
WAVE_LIKE = {
    "*.masked_spec_embed": "token o rms",
    "*.conv_layers.0.conv.weight": "input oik spectral",
    "*.conv_layers.1.conv.weight": "hidden oik spectral",
    "*.projection.weight": "hidden oi spectral",
    "*.pos_conv_embed.*.original0": "gain --o rms",
    "*.pos_conv_embed.*.original1": "hidden oik spectral 8 8 8 8",
    "*_dense.weight": "hidden oi spectral",
    "*norm.weight": "gain o rms",
    "*bias": "bias o rms",
}


def noise(*shape: int) -> Tensor:
    """Gaussian inputs."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def masked_wave() -> dict[str, Tensor]:
    """A wave of eleven frames, some of which are masked."""
    return {"input_values": noise(2, 120), "mask_time_indices": (torch.arange(11) % 4 == 1).expand(2, 11)}


HEARING: dict[str, Case] = {
    "whisper": Case(
        model(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            **PAIR,
            vocab_size=96,
            num_mel_bins=8,
            max_source_positions=10,
            max_target_positions=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        lambda: {"input_features": noise(2, 8, 20), "decoder_input_ids": tokens(5)},
        {
            "model.encoder.conv1.weight": "input oik spectral",
            "model.encoder.conv2.weight": "hidden oik spectral",
            "*.embed_positions.weight": "position xo colnorm",
            "model.decoder.embed_tokens.weight": "output oi sign",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "*norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    "wav2vec2": Case(
        model("Wav2Vec2Model", "Wav2Vec2Config", **WAVE),
        masked_wave,
        {key: value for key, value in WAVE_LIKE.items() if key != "*.masked_spec_embed"}
        | {
            "masked_spec_embed": "token o rms",
            "feature_projection.projection.weight": "hidden oi spectral",
            "*_proj.weight": "hidden oi spectral",
        },
    ),
    # Relative positions whose size a gate of two numbers decides, each the sum of four.
    "wavlm": Case(
        model("WavLMForCTC", "WavLMConfig", **WAVE),
        lambda: {"input_values": noise(2, 120)},
        WAVE_LIKE
        | {
            "*_proj.weight": "hidden oi spectral",
            "*.gru_rel_pos_const": "gain -o-- rms",
            "*.gru_rel_pos_linear.weight": "hidden oi spectral 4 4",
            "*.gru_rel_pos_linear.bias": "bias o rms 4 4",
            "*.rel_attn_embed.weight": "position xo colnorm",
            "lm_head.weight": "output oi sign",
        },
    ),
    # The convolution of positions isn't run where positions are relative; linear_pos meets fixed sines.
    "wav2vec2-conformer": Case(
        model(
            "Wav2Vec2ConformerForCTC",
            "Wav2Vec2ConformerConfig",
            **WAVE,
            position_embeddings_type="relative",
            conv_depthwise_kernel_size=5,
        ),
        lambda: {"input_values": noise(2, 120)},
        {key: value for key, value in WAVE_LIKE.items() if "pos_conv" not in key}
        | {
            "*.pos_conv_embed.*": "unused",
            "*.pos_bias_?": "bias oo rms",
            "*.linear_?.weight": "hidden oi spectral",
            "*.linear_out.weight": "hidden oi spectral",
            "*.linear_pos.weight": "input oi spectral",
            "*.pointwise_conv1.weight": "hidden oik spectral 32 32",
            "*.pointwise_conv2.weight": "hidden oik spectral",
            "*.depthwise_conv.weight": "depthwise bik rownorm",
            "lm_head.weight": "output oi sign",
        },
    ),
    "audio-spectrogram": Case(
        model(
            "ASTForAudioClassification",
            "ASTConfig",
            **ENCODER,
            patch_size=4,
            frequency_stride=2,
            time_stride=2,
            max_length=16,
            num_mel_bins=8,
            num_labels=5,
        ),
        lambda: {"input_values": noise(2, 16, 8)},
        {
            "*_token": "token --o rms",
            "*.position_embeddings": "position -xo colnorm",
            "*.projection.weight": "input oikk spectral",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "*norm*.weight": "gain o rms",
            "classifier.dense.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    # Codes are the nearest entries of a buffer: no gradient comes back to the encoder.
    "encodec": Case(
        model(
            "EncodecModel",
            "EncodecConfig",
            num_filters=4,
            upsampling_ratios=[2, 2],
            codebook_size=16,
            codebook_dim=8,
            hidden_size=8,
            num_lstm_layers=1,
        ),
        lambda: {"input_values": noise(2, 1, 32)},
        {
            "encoder.*": "unused",
            "decoder.*.conv.*.original0": "gain o-- rms",
            "decoder.*.conv.*.original1": "hidden oik spectral",
            "decoder.layers.[36].conv.*.original1": "hidden iok spectral",
            "decoder.layers.9.conv.*.original0": "scalar --- sign",
            "decoder.layers.9.conv.*.original1": "output oik sign",
            "decoder.*.lstm.weight_*": "hidden oi spectral 16 16 16 16",
            "decoder.*.lstm.bias_*": "bias o rms 16 16 16 16",
            "decoder.*.conv.bias": "bias o rms",
            "decoder.layers.9.conv.bias": "bias - rms",
        },
    ),
    # A classifier's type table has one row. The spectrogram's bands are normalised before the first matrix.
    "clap": Case(
        model(
            "ClapModel",
            "ClapConfig",
            text_config=TOWER | {"vocab_size": 96, "max_position_embeddings": 40},
            audio_config={
                "spec_size": 32,
                "patch_size": 4,
                "patch_stride": [4, 4],
                "num_mel_bins": 8,
                "depths": [1, 1],
                "num_attention_heads": [2, 4],
                "window_size": 2,
                "patch_embeds_hidden_size": 16,
                "hidden_size": 32,
            },
            projection_dim=16,
        ),
        lambda: {"input_ids": tokens(), "input_features": noise(2, 1, 128, 8)},
        {
            "logit_scale_?": "scalar  sign",
            "*.word_embeddings.weight": "embedding xo colnorm",
            "*.position_embeddings.weight": "position xo colnorm",
            "*.token_type_embeddings.weight": "embedding -o colnorm",
            "*.patch_embed.proj.weight": "input oikk spectral",
            "*.relative_position_bias_table": "position xo colnorm",
            "*.query.weight": "hidden oi spectral",
            "*.key.weight": "hidden oi spectral",
            "*.value.weight": "hidden oi spectral",
            "*.dense.weight": "hidden oi spectral",
            "*.reduction.weight": "hidden oi spectral",
            "*_projection.linear1.weight": "hidden oi spectral",
            "*_projection.linear2.weight": "output oi sign",
            "*ayer*orm*.weight": "gain o rms",
            "*norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # Four codebooks' embeddings are added; the text's states are an input, so their matrices are the first ones.
    "musicgen": Case(
        model(
            "MusicgenForCausalLM",
            "MusicgenDecoderConfig",
            vocab_size=48,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            ffn_dim=48,
            num_codebooks=2,
            max_position_embeddings=40,
            use_cache=False,
            pad_token_id=48,
            bos_token_id=48,
        ),
        lambda: {"input_ids": tokens(8, 48).repeat(2, 1), "encoder_hidden_states": noise(2, 5, 32)},
        {
            "*.embed_tokens.?.weight": "embedding xo colnorm",
            "*_proj.weight": "hidden oi spectral",
            "*.encoder_attn.[kv]_proj.weight": "input oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "lm_heads.?.weight": "output oi sign",
            "*norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
}
