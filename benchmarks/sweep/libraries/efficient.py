"""Other attentions and mixtures, a small package each: performer, reformer, perceiver, soft and sparse experts."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of, tokens

PACKAGES = ("performer-pytorch", "reformer-pytorch", "perceiver-pytorch", "soft-moe-pytorch", "st-moe-pytorch",
            "titans-pytorch", "linear-attention-transformer")  # fmt: skip
MODULES = ("performer_pytorch", "reformer_pytorch", "perceiver_pytorch", "soft_moe_pytorch", "st_moe_pytorch",
           "titans_pytorch", "linear_attention_transformer")  # fmt: skip


def _text(module: str, kind: str, vocabulary: int = 31, length: int = 16, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        return of(getattr(library(module), kind)(num_tokens=vocabulary, **options), tokens(vocabulary, length))

    return build


def _vectors(module: str, kind: str, width: int, length: int = 16, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        return of(getattr(library(module), kind)(**options), torch.randn(2, length, width))

    return build


def _perceiver(draw: Draw) -> Example:
    made = library("perceiver_pytorch").Perceiver(
        num_freq_bands=3, depth=2, max_freq=8.0, num_latents=8, latent_dim=24, latent_heads=2, cross_dim_head=8,
        latent_dim_head=8, num_classes=5, weight_tie_layers=draw.random() < 0.5,
    )  # fmt: skip
    return of(made, torch.randn(2, 8, 8, 3))


def _perceiver_io(draw: Draw) -> Example:
    made = library("perceiver_pytorch").PerceiverIO(
        dim=12, queries_dim=10, logits_dim=7, depth=2, num_latents=8, latent_dim=24, latent_heads=2, cross_dim_head=8,
        latent_dim_head=8, decoder_ff=True,
    )  # fmt: skip
    return of(made, torch.randn(2, 9, 12), queries=torch.randn(5, 10))


_LM: dict[str, Any] = {"dim": 24, "depth": 2, "heads": 2, "max_seq_len": 16}

MODELS: dict[str, Build] = {
    "performer": _text("performer_pytorch", "PerformerLM", dim_head=8, nb_features=8, **_LM),
    "performer-causal": _text("performer_pytorch", "PerformerLM", dim_head=8, causal=True, no_projection=True, **_LM),
    "performer-reversible": _text("performer_pytorch", "PerformerLM", dim_head=8, reversible=True, ff_glu=True,
                                  use_scalenorm=True, rotary_position_emb=False, nb_features=8, **_LM),
    "reformer": _text("reformer_pytorch", "ReformerLM", bucket_size=4, n_hashes=2, ff_chunks=1, **_LM),
    "reformer-axial": _text("reformer_pytorch", "ReformerLM", bucket_size=4, n_hashes=2, ff_chunks=2, causal=True,
                            axial_position_emb=True, axial_position_shape=(4, 4), num_mem_kv=8, **_LM),
    "perceiver": _perceiver,
    "perceiver-io": _perceiver_io,
    "perceiver-lm": _text("perceiver_pytorch", "PerceiverLM", dim=24, max_seq_len=16, depth=1, num_latents=6,
                          latent_dim=16, latent_heads=2, cross_dim_head=8, latent_dim_head=8,),
    "soft-moe": _vectors("soft_moe_pytorch", "SoftMoE", 24, dim=24, seq_len=16, num_experts=4, geglu=True),
    "soft-moe-dynamic": _vectors("soft_moe_pytorch", "DynamicSlotsSoftMoE", 24, dim=24, num_experts=4),
    "st-moe": _vectors("st_moe_pytorch", "MoE", 24, dim=24, num_experts=4),
    "st-moe-block": lambda draw: of(
        library("st_moe_pytorch").SparseMoEBlock(
            library("st_moe_pytorch").MoE(dim=24, num_experts=4), add_ff_before=True, add_ff_after=True
        ),
        torch.randn(2, 16, 24),
    ),
    "titans": _text("titans_pytorch", "MemoryAsContextTransformer", dim=24, depth=2, segment_len=4, dim_head=8, heads=2,
                    num_persist_mem_tokens=2, num_longterm_mem_tokens=2, neural_memory_layers=(2,),
                    use_flex_attn=False),
    "neural-memory": _vectors("titans_pytorch", "NeuralMemory", 24, dim=24, chunk_size=4),
    "linear-attention": _text("linear_attention_transformer", "LinearAttentionTransformerLM", n_local_attn_heads=1,
                              local_attn_window_size=8, blindspot_size=1, **_LM),
}  # fmt: skip
