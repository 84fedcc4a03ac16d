"""x-transformers: one stack of layers with a hundred options."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of, tokens

PACKAGES = ("x-transformers",)
MODULES = ("x_transformers",)
_VOCABULARY = 61


def _layers(draw: Draw, kind: str, **options: Any) -> Any:
    return getattr(library("x_transformers"), kind)(
        dim=draw.choice((24, 32)), depth=2, heads=draw.choice((2, 3)), attn_dim_head=draw.choice((8, 12)), **options
    )


def _text(kind: str = "Decoder", wrapper: dict[str, Any] | None = None, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        made = library("x_transformers").TransformerWrapper(
            num_tokens=_VOCABULARY, max_seq_len=32, attn_layers=_layers(draw, kind, **options), **(wrapper or {})
        )
        return of(made, tokens(_VOCABULARY))

    return build


def _encoder_decoder(draw: Draw) -> Example:
    shape = {"num_tokens": _VOCABULARY, "depth": 1, "heads": draw.choice((2, 3)), "max_seq_len": 32}
    named = {f"{part}_{key}": value for part in ("enc", "dec") for key, value in shape.items()}
    model = library("x_transformers").XTransformer(dim=24, tie_token_emb=draw.random() < 0.5, **named)
    return of(model, tokens(_VOCABULARY), tokens(_VOCABULARY, 7))


def _image(draw: Draw) -> Example:
    model = library("x_transformers").ViTransformerWrapper(
        image_size=16, patch_size=4, num_classes=7, num_register_tokens=2, attn_layers=_layers(draw, "Encoder")
    )
    return of(model, torch.randn(2, 3, 16, 16))


def _continuous(draw: Draw) -> Example:
    model = library("x_transformers").ContinuousTransformerWrapper(
        dim_in=10, dim_out=6, max_seq_len=32, attn_layers=_layers(draw, "Encoder")
    )
    return of(model, torch.randn(2, 9, 10))


def _cross(draw: Draw) -> Example:
    layers = _layers(draw, "CrossAttender")
    return of(layers, torch.randn(2, 5, layers.dim), context=torch.randn(2, 9, layers.dim))


def _many_inputs(draw: Draw) -> Example:
    model = library("x_transformers").MultiInputTransformerWrapper(
        num_tokens={"note": 31, "pitch": 17}, max_seq_len=32, attn_layers=_layers(draw, "Decoder")
    )
    return of(model, {"note": tokens(31), "pitch": tokens(17)})


def _autoregressive(draw: Draw) -> Example:
    x = library("x_transformers")
    net = x.TransformerWrapper(num_tokens=_VOCABULARY, max_seq_len=32, attn_layers=_layers(draw, "Decoder"))
    return of(x.AutoregressiveWrapper(net), tokens(_VOCABULARY))


def _numbers(draw: Draw) -> Example:
    x = library("x_transformers")
    model = x.XValTransformerWrapper(
        num_tokens=_VOCABULARY, numerical_token_id=3, max_seq_len=32, attn_layers=_layers(draw, "Decoder")
    )
    return of(model, tokens(_VOCABULARY), torch.rand(2, 9))


def _neo_mlp(draw: Draw) -> Example:
    model = library("x_transformers").NeoMLP(dim_in=5, dim_hidden=7, dim_out=4, depth=2, dim_model=24)
    return of(model, torch.randn(3, 5))


MODELS: dict[str, Build] = {
    "decoder": _text(),
    "encoder": _text("Encoder"),
    "rotary": _text(rotary_pos_emb=True),
    "alibi": _text(alibi_pos_bias=True),
    "relative": _text(rel_pos_bias=True),
    "dynamic-positions": _text(dynamic_pos_bias=True),
    "gated": _text(ff_glu=True, ff_swish=True, ff_no_bias=True, use_rmsnorm=True),
    "glu-bias": _text(ff_glu=True, ff_glu_mult_bias=True),
    "memory": _text(attn_num_mem_kv=3),
    "memory-tokens": _text(wrapper={"num_memory_tokens": 3}),
    "talking": _text(attn_pre_talking_heads=True, attn_post_talking_heads=True),
    "head-scale": _text(attn_head_scale=True),
    "one-kv-head": _text(attn_one_kv_head=True),
    "normalised-qk": _text(attn_qk_norm=True, attn_qk_norm_dim_scale=True),
    "gated-values": _text(attn_gate_values=True),
    "gated-residual": _text(gate_residual=True),
    "scaled-residual": _text(scale_residual=True),
    "sandwich": _text(sandwich_norm=True),
    "macaron": _text("Encoder", macaron=True),
    "hyper-connections": _text(num_residual_streams=3),
    "shifted": _text(shift_tokens=1),
    "value-residual": _text(add_value_residual=True, learned_value_residual_mix=True),
    "scalenorm": _text(use_scalenorm=True),
    "tied": _text(wrapper={"tie_embedding": True}),
    "class-token": _text("Encoder", wrapper={"use_cls_token": True, "logits_dim": 5}),
    "attention-pool": _text("Encoder", wrapper={"attn_pool": True, "logits_dim": 5}),
    "mixture-of-softmax": _text(wrapper={"mixture_of_softmax": True}),
    "data-dependent-alibi": _text(attn_data_dependent_alibi=True),
    "selective": _text(attn_selective=True),
    "encoder-decoder": _encoder_decoder,
    "image": _image,
    "continuous": _continuous,
    "cross": _cross,
    "many-inputs": _many_inputs,
    "autoregressive": _autoregressive,
    "numbers": _numbers,
    "neo-mlp": _neo_mlp,
}
