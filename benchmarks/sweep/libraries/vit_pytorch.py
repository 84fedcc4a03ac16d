"""vit-pytorch: vision transformers, one file of the library each."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.sweep.libraries.example import Build, Draw, Example, heads, library, of, pixels

PACKAGES = ("vit-pytorch",)
MODULES = ("vit_pytorch",)


def _plain(file: str, kind: str = "ViT", size: int = 32, **options: Any) -> Build:
    """A model that takes the usual settings."""

    def build(draw: Draw) -> Example:
        count, width = heads(draw)
        settings = {"image_size": size, "patch_size": 8, "num_classes": 7, "dim": width, "depth": 2, "heads": count,
                    "mlp_dim": 2 * width, "dim_head": 8} | options  # fmt: skip
        return of(getattr(library(f"vit_pytorch.{file}"), kind)(**settings), pixels(size))

    return build


def _other(file: str, kind: str, size: int = 64, **options: Any) -> Build:
    """A model with settings of its own."""

    def build(draw: Draw) -> Example:
        return of(getattr(library(f"vit_pytorch.{file}"), kind)(**options), pixels(size))

    return build


def _volume(draw: Draw) -> Example:
    count, width = heads(draw)
    model = library("vit_pytorch.vit_3d").ViT(
        image_size=16, image_patch_size=8, frames=4, frame_patch_size=2, num_classes=7, dim=width, depth=2,
        heads=count, mlp_dim=2 * width, dim_head=8,
    )  # fmt: skip
    return of(model, torch.randn(2, 3, 4, 16, 16))


def _video(variant: str) -> Build:
    def build(draw: Draw) -> Example:
        count, width = heads(draw)
        model = library("vit_pytorch.vivit").ViViT(
            image_size=16, image_patch_size=8, frames=4, frame_patch_size=2, num_classes=7, dim=width,
            spatial_depth=1, temporal_depth=1, heads=count, mlp_dim=2 * width, dim_head=8, variant=variant,
        )  # fmt: skip
        return of(model, torch.randn(2, 3, 4, 16, 16))

    return build


def _adapter(draw: Draw) -> Example:
    home = library("vit_pytorch.learnable_memory_vit")
    count, width = heads(draw)
    vit = home.ViT(image_size=32, patch_size=8, num_classes=7, dim=width, depth=2, heads=count, mlp_dim=48, dim_head=8)
    return of(home.Adapter(vit=vit, num_memories_per_layer=3, num_classes=5), pixels())


def _resolutions(draw: Draw) -> Example:
    count, width = heads(draw)
    model = library("vit_pytorch.na_vit").NaViT(
        image_size=32, patch_size=8, num_classes=7, dim=width, depth=1, heads=count, mlp_dim=48, dim_head=8
    )
    return of(model, [torch.randn(3, 32, 16), torch.randn(3, 16, 16), torch.randn(3, 8, 32)], group_images=True)


MODELS: dict[str, Build] = {
    "vit": _plain("vit"),
    "vit-mean": _plain("vit", pool="mean"),
    "simple": _plain("simple_vit", "SimpleViT"),
    "registers": _plain("simple_vit_with_register_tokens", "SimpleViT"),
    "qk-norm": _plain("simple_vit_with_qk_norm", "SimpleViT"),
    "value-residual": _plain("simple_vit_with_value_residual", "SimpleViT"),
    "hyper-connections": _plain("simple_vit_with_hyper_connections", "SimpleViT", num_residual_streams=3),
    "fft": _plain("simple_vit_with_fft", "SimpleViT", freq_patch_size=8),
    "uvit": _plain("simple_uvit", "SimpleUViT"),
    "jumbo": _plain("jumbo_vit", "JumboViT", jumbo_cls_k=2),
    "deep": _plain("deepvit", "DeepViT"),
    "cait": _plain("cait", "CaiT", cls_depth=1, layer_dropout=0.05),
    "parallel": _plain("parallel_vit"),
    "small": _plain("vit_for_small_dataset"),
    "merger": _plain("vit_with_patch_merger", patch_merge_layer=1, patch_merge_num_tokens=4),
    "normalised": _plain("normalized_vit", "nViT"),
    "rotary": _plain("rvt", "RvT"),
    "xcit": _plain("xcit", "XCiT", cls_depth=1),
    "pit": _plain("pit", "PiT", depth=(1, 1)),
    "sampled": _plain("ats_vit", max_tokens_per_depth=(8, 4)),
    "t2t": _other("t2t", "T2TViT", 32, image_size=32, num_classes=7, dim=24, depth=1, heads=2, mlp_dim=48, dim_head=8,
                  t2t_layers=((3, 2), (3, 2))),
    "cct": _other("cct", "CCT", 32, img_size=32, embedding_dim=24, num_layers=2, num_heads=2, mlp_ratio=2,
                  num_classes=7, n_conv_layers=2, kernel_size=3, positional_embedding="learnable"),
    "cross": _other("cross_vit", "CrossViT", 32, image_size=32, num_classes=7, sm_dim=16, lg_dim=24, sm_patch_size=8,
                    lg_patch_size=16, sm_enc_heads=2, lg_enc_heads=2, sm_enc_mlp_dim=32, lg_enc_mlp_dim=48,
                    lg_enc_depth=1, cross_attn_depth=1, cross_attn_heads=2, depth=1),
    "crossformer": _other("crossformer", "CrossFormer", 64, dim=(32, 32, 32, 32), depth=(1, 1, 1, 1),
                          global_window_size=(4, 2, 2, 1), local_window_size=2, num_classes=7,
                          cross_embed_kernel_sizes=((4, 8), (2, 4), (2, 4), (2, 4))),
    "cvt": _other("cvt", "CvT", 64, num_classes=7, s1_emb_dim=16, s2_emb_dim=24, s3_emb_dim=32, s3_depth=1, s2_depth=1),
    "levit": _other("levit", "LeViT", 64, image_size=64, num_classes=7, stages=2, dim=(32, 48), depth=1, heads=(2, 3),
                    mlp_mult=2, dim_key=8, dim_value=16),
    "look": _other("look_vit", "LookViT", 64, dim=24, image_size=64, num_classes=7, depth=1, patch_size=16, heads=2,
                   dim_head=8, highres_patch_size=8, cross_attn_heads=2, cross_attn_dim_head=8),
    "max": _other("max_vit", "MaxViT", 64, num_classes=7, dim=16, depth=(1, 1), dim_head=8, window_size=4),
    "nest": _other("nest", "NesT", 32, image_size=32, patch_size=4, num_classes=7, dim=16, heads=2, num_hierarchies=2,
                   block_repeats=(1, 1), dim_head=8),
    "region": _other("regionvit", "RegionViT", 64, dim=(16, 24, 32, 32), depth=(1, 1, 1, 1), window_size=2,
                     num_classes=7, use_peg=True),
    "scalable": _other("scalable_vit", "ScalableViT", 64, num_classes=7, dim=16, heads=(2, 2), depth=(1, 1),
                       reduction_factor=(4, 2), window_size=(8, None)),
    "twins": _other("twins_svt", "TwinsSVT", 64, num_classes=7, s1_emb_dim=16, s2_emb_dim=16, s3_emb_dim=24,
                    s4_emb_dim=24, s1_local_patch_size=4, s2_local_patch_size=4, s3_local_patch_size=2,
                    s4_local_patch_size=2, s1_global_k=4, s2_global_k=4, s3_global_k=2, s4_global_k=1, s3_depth=1,
                    s4_depth=1),
    "volume": _volume,
    "video-factorised": _video("factorized_encoder"),
    "video-self": _video("factorized_self_attention"),
    "adapter": _adapter,
    "resolutions": _resolutions,
}  # fmt: skip
