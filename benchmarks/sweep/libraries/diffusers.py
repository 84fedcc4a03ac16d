"""diffusers: transformers, U-Nets and autoencoders of image, video and sound models, with small configurations."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("diffusers",)
MODULES = ("diffusers",)


def _model(kind: str, inputs: Any, **config: Any) -> Build:
    """The class `kind` with a configuration; `inputs` makes the keyword arguments of its forward."""

    def build(draw: Draw) -> Example:
        return of(getattr(library("diffusers"), kind)(**config), **inputs())

    return build


def _latents(channels: int, size: int = 16, **more: Any) -> Any:
    return lambda: {"hidden_states": torch.randn(2, channels, size, size), **{k: make() for k, make in more.items()}}


def _sample(channels: int, size: int = 32, **more: Any) -> Any:
    return lambda: {"sample": torch.randn(2, channels, size, size), **{k: make() for k, make in more.items()}}


def _times() -> torch.Tensor:
    return torch.tensor([30, 700])


def _text(width: int, length: int = 6) -> Any:
    return lambda: torch.randn(2, length, width)


_UNET: dict[str, Any] = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}


def _flux() -> dict[str, Any]:
    return {"hidden_states": torch.randn(2, 16, 8), "encoder_hidden_states": torch.randn(2, 6, 24),
            "pooled_projections": torch.randn(2, 20), "timestep": torch.rand(2), "img_ids": torch.rand(16, 3),
            "txt_ids": torch.zeros(6, 3), "guidance": torch.rand(2)}  # fmt: skip


def _sana() -> dict[str, Any]:
    return {"hidden_states": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 6, 20),
            "timestep": _times()}  # fmt: skip


def _video(channels: int, width: int) -> Any:
    return lambda: {"hidden_states": torch.randn(1, channels, 2, 8, 8), "timestep": torch.tensor([30]),
                    "encoder_hidden_states": torch.randn(1, 6, width)}  # fmt: skip


def _lumina() -> dict[str, Any]:
    return {"hidden_states": torch.randn(2, 4, 8, 8), "timestep": torch.rand(2),
            "encoder_hidden_states": torch.randn(2, 6, 16),
            "encoder_attention_mask": torch.ones(2, 6, dtype=torch.bool)}  # fmt: skip


def _qwen() -> dict[str, Any]:
    return {"hidden_states": torch.randn(1, 16, 16), "encoder_hidden_states": torch.randn(1, 6, 16),
            "encoder_hidden_states_mask": torch.ones(1, 6, dtype=torch.long), "timestep": torch.tensor([0.3]),
            "img_shapes": [(1, 4, 4)]}  # fmt: skip


MODELS: dict[str, Build] = {
    "unet-2d": _model("UNet2DModel", _sample(3, timestep=_times), sample_size=32, **_UNET,
                      down_block_types=("DownBlock2D", "AttnDownBlock2D"), attention_head_dim=8,
                      up_block_types=("AttnUpBlock2D", "UpBlock2D")),
    "unet-2d-condition": _model("UNet2DConditionModel", _sample(4, timestep=_times, encoder_hidden_states=_text(20)),
                                sample_size=32, **_UNET, cross_attention_dim=20, attention_head_dim=2,
                                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")),
    "unet-2d-classes": _model("UNet2DConditionModel",
                              _sample(4, timestep=_times, encoder_hidden_states=_text(20),
                                      class_labels=lambda: torch.tensor([1, 4])),
                              sample_size=32, **_UNET, cross_attention_dim=20, attention_head_dim=2,
                              use_linear_projection=True, num_class_embeds=7, resnet_time_scale_shift="scale_shift",
                              down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                              up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")),
    "unet-1d": _model("UNet1DModel", lambda: {"sample": torch.randn(2, 14, 16), "timestep": _times()},
                      in_channels=14, out_channels=14, block_out_channels=(16, 32), time_embedding_type="positional",
                      down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"), up_block_types=("UpResnetBlock1D",),
                      mid_block_type="MidResTemporalBlock1D", out_block_type="OutConv1DBlock", act_fn="swish",
                      use_timestep_embedding=True, norm_num_groups=4),
    "unet-3d": _model("UNet3DConditionModel",
                      lambda: {"sample": torch.randn(1, 4, 3, 16, 16), "timestep": torch.tensor([30]),
                               "encoder_hidden_states": torch.randn(1, 6, 20)},
                      sample_size=16, **_UNET, cross_attention_dim=20, attention_head_dim=8,
                      down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                      up_block_types=("UpBlock3D", "CrossAttnUpBlock3D")),
    "uvit": _model("UVit2DModel",
                   lambda: {"input_ids": torch.randint(0, 30, (2, 8, 8)),
                            "encoder_hidden_states": torch.randn(2, 6, 20), "pooled_text_emb": torch.randn(2, 20),
                            "micro_conds": torch.rand(2, 5)},
                   hidden_size=32, cond_embed_dim=20, micro_cond_encode_dim=4, micro_cond_embed_dim=20,
                   encoder_hidden_size=20, vocab_size=32, codebook_size=30, num_hidden_layers=1,
                   num_attention_heads=2, in_channels=32, block_out_channels=32, block_num_heads=2,
                   num_res_blocks=1, intermediate_size=48),
    "dit": _model("DiTTransformer2DModel",
                  _latents(4, 8, timestep=_times, class_labels=lambda: torch.tensor([7, 3])),
                  num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
                  sample_size=8, patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4),
    "pixart": _model("PixArtTransformer2DModel",
                     _latents(4, 8, timestep=_times, encoder_hidden_states=_text(20),
                              added_cond_kwargs=lambda: {"resolution": None, "aspect_ratio": None}),
                     num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
                     sample_size=8, patch_size=2, cross_attention_dim=24, caption_channels=20, norm_num_groups=4,
                     use_additional_conditions=False),
    "sd3": _model("SD3Transformer2DModel",
                  _latents(4, 8, timestep=_times, encoder_hidden_states=_text(20),
                           pooled_projections=lambda: torch.randn(2, 20)),
                  sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
                  joint_attention_dim=20, caption_projection_dim=32, pooled_projection_dim=20, out_channels=4,
                  pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm"),
    "flux": _model("FluxTransformer2DModel", _flux, patch_size=1, in_channels=8, num_layers=1, num_single_layers=1,
                   attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=20,
                   guidance_embeds=True, axes_dims_rope=(4, 4, 8)),
    "auraflow": _model("AuraFlowTransformer2DModel",
                       _latents(4, 8, encoder_hidden_states=_text(20), timestep=lambda: torch.rand(2)),
                       sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
                       attention_head_dim=8, num_attention_heads=4, joint_attention_dim=20, caption_projection_dim=32,
                       out_channels=4, pos_embed_max_size=32),
    "sana": _model("SanaTransformer2DModel", _sana, in_channels=4, out_channels=4, num_attention_heads=2,
                   attention_head_dim=12, num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=12,
                   cross_attention_dim=24, caption_channels=20, mlp_ratio=2, sample_size=8, patch_size=1),
    "hunyuan": _model("HunyuanDiT2DModel",
                      _latents(4, 8, timestep=lambda: torch.tensor([1.0, 2.0]), encoder_hidden_states=_text(12, 5),
                               text_embedding_mask=lambda: torch.ones(2, 5),
                               encoder_hidden_states_t5=_text(12, 5), text_embedding_mask_t5=lambda: torch.ones(2, 5),
                               image_meta_size=lambda: torch.rand(2, 6), style=lambda: torch.zeros(2, dtype=torch.long),
                               image_rotary_emb=lambda: [torch.rand(16, 8), torch.rand(16, 8)]),
                      sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8,
                      num_attention_heads=2, cross_attention_dim=12, cross_attention_dim_t5=12,
                      pooled_projection_dim=4, hidden_size=16, text_len=5, text_len_t5=5,
                      activation_fn="gelu-approximate"),
    "lumina2": _model("Lumina2Transformer2DModel", _lumina, sample_size=8, patch_size=2, in_channels=4,
                      hidden_size=24, num_layers=1, num_refiner_layers=1, num_attention_heads=1, num_kv_heads=1,
                      multiple_of=8, axes_dim_rope=(8, 8, 8), axes_lens=(32, 32, 32), cap_feat_dim=16),
    "cogview3": _model("CogView3PlusTransformer2DModel",
                       _latents(4, 8, encoder_hidden_states=_text(20), timestep=_times,
                                original_size=lambda: torch.rand(2, 2), target_size=lambda: torch.rand(2, 2),
                                crop_coords=lambda: torch.rand(2, 2)),
                       patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
                       out_channels=4, text_embed_dim=20, time_embed_dim=8, condition_dim=2, pos_embed_max_size=8,
                       sample_size=8),
    "qwen-image": _model("QwenImageTransformer2DModel", _qwen, patch_size=2, in_channels=16, out_channels=4,
                         num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16,
                         axes_dims_rope=(8, 4, 4)),
    "cogvideo": _model("CogVideoXTransformer3DModel",
                       lambda: {"hidden_states": torch.randn(1, 2, 4, 8, 8), "timestep": torch.tensor([30]),
                                "encoder_hidden_states": torch.randn(1, 6, 16)},
                       num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=4,
                       text_embed_dim=16, num_layers=2, sample_width=8, sample_height=8, sample_frames=5, patch_size=2,
                       temporal_compression_ratio=4, max_text_seq_length=6),
    "wan": _model("WanTransformer3DModel", _video(4, 16), patch_size=(1, 2, 2), num_attention_heads=2,
                  attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=32, ffn_dim=32,
                  num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=32),
    "ltx": _model("LTXVideoTransformer3DModel",
                  lambda: {"hidden_states": torch.randn(1, 32, 4), "encoder_hidden_states": torch.randn(1, 6, 16),
                           "timestep": torch.tensor([30]), "encoder_attention_mask": torch.ones(1, 6),
                           "num_frames": 2, "height": 4, "width": 4},
                  in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
                  num_layers=2, caption_channels=16),
    "mochi": _model("MochiTransformer3DModel",
                    lambda: _video(4, 16)() | {"encoder_attention_mask": torch.ones(1, 6, dtype=torch.bool)},
                    patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
                    in_channels=4, out_channels=None, qk_norm="rms_norm", text_embed_dim=16, time_embed_dim=4,
                    max_sequence_length=6),
    "stable-audio": _model("StableAudioDiTModel",
                           lambda: {"hidden_states": torch.randn(2, 4, 8), "timestep": torch.rand(2),
                                    "encoder_hidden_states": torch.randn(2, 6, 12),
                                    "global_hidden_states": torch.randn(2, 1, 12)},
                           sample_size=8, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
                           num_key_value_attention_heads=2, out_channels=4, cross_attention_dim=12,
                           time_proj_dim=16, global_states_input_dim=12, cross_attention_input_dim=12),
    "prior": _model("PriorTransformer",
                    lambda: {"hidden_states": torch.randn(2, 16), "timestep": _times(),
                             "proj_embedding": torch.randn(2, 16), "encoder_hidden_states": torch.randn(2, 7, 16)},
                    num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=16, num_embeddings=7,
                    additional_embeddings=4),
    "autoencoder-kl": _model("AutoencoderKL", _sample(3), **_UNET, latent_channels=4,
                             down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
    "vq": _model("VQModel", _sample(3), **_UNET, latent_channels=3, num_vq_embeddings=16,
                 down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
    "autoencoder-tiny": _model("AutoencoderTiny", _sample(3), encoder_block_out_channels=(16, 16),
                               decoder_block_out_channels=(16, 16), num_encoder_blocks=(1, 1),
                               num_decoder_blocks=(1, 1)),
    "autoencoder-dc": _model("AutoencoderDC", _sample(3), in_channels=3, latent_channels=4, attention_head_dim=4,
                             encoder_block_types=("ResBlock", "EfficientViTBlock"),
                             decoder_block_types=("ResBlock", "EfficientViTBlock"),
                             encoder_block_out_channels=(8, 16), decoder_block_out_channels=(8, 16),
                             encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
                             encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
                             downsample_block_type="pixel_unshuffle", upsample_block_type="pixel_shuffle",
                             decoder_norm_types="rms_norm", decoder_act_fns="silu"),
    "controlnet": _model("ControlNetModel",
                         _sample(4, 16, timestep=_times, encoder_hidden_states=_text(20),
                                 controlnet_cond=lambda: torch.randn(2, 3, 128, 128)),
                         **_UNET, cross_attention_dim=20, attention_head_dim=2,
                         conditioning_embedding_out_channels=(8, 16, 16, 24),
                         down_block_types=("DownBlock2D", "CrossAttnDownBlock2D")),
}  # fmt: skip
