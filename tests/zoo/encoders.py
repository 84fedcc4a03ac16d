"""Encoders and encoder-decoders of transformers: shared layers, relative and 2-d positions, learned latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.zoo.case import Case, tokens
from tests.zoo.families import BERT_LIKE, SMALL, model, text

BERT: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "use_cache"}
PAIR: dict[str, Any] = {
    "vocab_size": 96, "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 40,
    "use_cache": False, "pad_token_id": 0,
}  # fmt: skip
BART_LIKE = {
    "*.embed_positions.weight": "position xo colnorm",
    "*_proj.weight": "hidden oi spectral",
    "*.fc?.weight": "hidden oi spectral",
    "*norm*.weight": "gain o rms",
    "*bias": "bias o rms",
}
# Relative sines come before every weight. A segment's two entries are scored as keys are (see xlnet), and then one of
# the two scores is chosen.
FUNNEL_LIKE = {
    "*.r_kernel": "input ioo spectral",
    "*.seg_embed": "hidden obi spectral 1 1",
    "*.r_?_bias": "bias oo rms",
}


def pair() -> dict[str, Tensor]:
    """Token ids for the encoder and the decoder."""
    return {"input_ids": tokens(), "decoder_input_ids": tokens(5)}


def segments() -> dict[str, Tensor]:
    """Token ids of two segments."""
    return {"input_ids": tokens(), "token_type_ids": (torch.arange(8) > 4).long().expand(2, 8)}


def watched() -> dict[str, Tensor]:
    """Token ids, the first of which every other one sees."""
    return {"input_ids": tokens(), "global_attention_mask": (torch.arange(8) < 1).long().expand(2, 8)}


def boxes() -> dict[str, Tensor]:
    """Token ids with the corners of their boxes on the page."""
    corners = torch.randint(0, 20, (2, 8, 2), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens(), "bbox": torch.cat([corners, corners + torch.tensor([7, 3])], dim=-1)}


ENCODERS: dict[str, Case] = {
    "albert": Case(
        model("AlbertForMaskedLM", "AlbertConfig", **BERT, embedding_size=16),
        text,
        BERT_LIKE
        | {
            "*.embedding_hidden_mapping_in.weight": "hidden oi spectral",
            "*.ffn.weight": "hidden oi spectral",
            "*.ffn_output.weight": "hidden oi spectral",
        },
    ),
    # rel_embeddings is used whole, as keys and as queries, and places are picked from the scores: a learned operand
    # here; one may call it a position table.
    "deberta-v2": Case(
        model(
            "DebertaV2ForMaskedLM",
            "DebertaV2Config",
            **BERT,
            type_vocab_size=2,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            share_att_key=False,
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            conv_kernel_size=3,
        ),
        text,
        {
            "*.word_embeddings.weight": "output oi sign",
            "*.position_embeddings.weight": "position xo colnorm",
            "*.token_type_embeddings.weight": "embedding xo colnorm",
            "*.rel_embeddings.weight": "token xo rms",
            "*_proj.weight": "hidden oi spectral",
            "*dense.weight": "hidden oi spectral",
            "*.conv.conv.weight": "hidden oik spectral",
            "*LayerNorm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    "distilbert": Case(
        model(
            "DistilBertForMaskedLM",
            "DistilBertConfig",
            n_layers=2,
            dim=64,
            n_heads=4,
            hidden_dim=96,
            vocab_size=96,
            max_position_embeddings=40,
        ),
        text,
        {
            "*.word_embeddings.weight": "output oi sign",
            "*.position_embeddings.weight": "position xo colnorm",
            "*.?_lin.weight": "hidden oi spectral",
            "*.out_lin.weight": "hidden oi spectral",
            "*.lin?.weight": "hidden oi spectral",
            "vocab_transform.weight": "hidden oi spectral",
            "*LayerNorm.weight": "gain o rms",
            "*layer_norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # A discriminator: one logit for every token, and no tie.
    "electra": Case(
        model("ElectraForPreTraining", "ElectraConfig", **BERT, embedding_size=16),
        text,
        {key: value for key, value in BERT_LIKE.items() if key != "*layer_norm.weight"}
        | {
            "*.word_embeddings.weight": "embedding xo colnorm",
            "electra.embeddings_project.weight": "hidden oi spectral",
            "*.dense_prediction.weight": "output oi sign",
            "*.dense_prediction.bias": "bias - rms",
        },
    ),
    # The head is the tied table beside a matrix of a Linear that is used transposed.
    "mobilebert": Case(
        model(
            "MobileBertForMaskedLM",
            "MobileBertConfig",
            **BERT,
            embedding_size=16,
            true_hidden_size=32,
            intra_bottleneck_size=32,
            num_feedforward_networks=2,
        ),
        text,
        {key: value for key, value in BERT_LIKE.items() if key != "*layer_norm.weight"}
        | {
            "*.embedding_transformation.weight": "hidden oi spectral",
            "cls.predictions.dense.weight": "output io sign",
        },
    ),
    "funnel": Case(
        model(
            "FunnelForMaskedLM",
            "FunnelConfig",
            vocab_size=96,
            block_sizes=[1, 1],
            num_decoder_layers=1,
            d_model=64,
            n_head=4,
            d_head=16,
            d_inner=96,
        ),
        segments,
        FUNNEL_LIKE
        | {
            "*.word_embeddings.weight": "output oi sign",
            "*_head.weight": "hidden oi spectral",
            "*.post_proj.weight": "hidden oi spectral",
            "*.linear_?.weight": "hidden oi spectral",
            "*layer_norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # No attention: a Fourier transform. The pooler's result isn't returned.
    "fnet": Case(
        model("FNetForMaskedLM", "FNetConfig", **BERT),
        text,
        {
            "*.word_embeddings.weight": "output oi sign",
            "*.position_embeddings.weight": "position xo colnorm",
            "*.token_type_embeddings.weight": "embedding xo colnorm",
            "*.projection.weight": "hidden oi spectral",
            "*dense.weight": "hidden oi spectral",
            "*LayerNorm.weight": "gain o rms",
            "fnet.pooler.dense.*": "unused",
            "*bias": "bias o rms",
        },
    ),
    # Attention beside a convolution whose window is an activation.
    "convbert": Case(
        model("ConvBertForMaskedLM", "ConvBertConfig", **BERT, embedding_size=64),
        text,
        {key: value for key, value in BERT_LIKE.items() if key != "*layer_norm.weight"}
        | {
            "*.depthwise.weight": "depthwise bik rownorm",
            "*.pointwise.weight": "hidden oik spectral",
            "*.key_conv_attn_layer.bias": "bias o- rms",
            "*.conv_kernel_layer.weight": "hidden oi spectral",
            "*.conv_out_layer.weight": "hidden oi spectral",
        },
    ),
    "longformer": Case(
        model("LongformerForMaskedLM", "LongformerConfig", **BERT, attention_window=4),
        watched,
        BERT_LIKE | {"*_global.weight": "hidden oi spectral"},
    ),
    # Places on the page are inputs: tables that inputs choose from, though one may call them positions.
    "layoutlm": Case(
        model("LayoutLMForTokenClassification", "LayoutLMConfig", **BERT, max_2d_position_embeddings=64, num_labels=5),
        boxes,
        {key: value for key, value in BERT_LIKE.items() if key != "*layer_norm.weight"}
        | {
            "*.word_embeddings.weight": "embedding xo colnorm",
            "*.?_position_embeddings.weight": "embedding xo colnorm",
            "layoutlm.pooler.dense.*": "unused",
            "classifier.weight": "output oi sign",
        },
    ),
    "esm": Case(
        model("EsmForMaskedLM", "EsmConfig", **BERT, position_embedding_type="rotary", token_dropout=False),
        text,
        {
            "*.word_embeddings.weight": "output oi sign",
            "*.query.weight": "hidden oi spectral",
            "*.key.weight": "hidden oi spectral",
            "*.value.weight": "hidden oi spectral",
            "*dense.weight": "hidden oi spectral",
            "*LayerNorm.weight": "gain o rms",
            "*layer_norm*.weight": "gain o rms",
            "esm.contact_head.regression.*": "unused",
            "*bias": "bias o rms",
        },
    ),
    "modernbert": Case(
        model("ModernBertForMaskedLM", "ModernBertConfig", **BERT),
        text,
        {
            "model.embeddings.tok_embeddings.weight": "output oi sign",
            "*.Wqkv.weight": "hidden oi spectral 64 64 64",
            "*.Wi.weight": "hidden oi spectral 96 96",
            "*.Wo.weight": "hidden oi spectral",
            "head.dense.weight": "hidden oi spectral",
            "*norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    "bart": Case(
        model("BartForConditionalGeneration", "BartConfig", **PAIR),
        pair,
        BART_LIKE | {"model.shared.weight": "output oi sign"},
    ),
    # Sines are a frozen parameter that is read without a gradient; three matrices for the vocabulary.
    "marian": Case(
        model(
            "MarianMTModel", "MarianConfig", **PAIR, share_encoder_decoder_embeddings=False, tie_word_embeddings=False
        ),
        pair,
        {key: value for key, value in BART_LIKE.items() if key != "*bias"}
        | {
            "*.embed_tokens.weight": "embedding xo colnorm",
            "*.embed_positions.weight": "unused",
            "lm_head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    # Latents and the places of the output are learned queries.
    "hf-perceiver": Case(
        model(
            "PerceiverForMaskedLM",
            "PerceiverConfig",
            num_latents=6,
            d_latents=32,
            d_model=24,
            num_blocks=1,
            num_self_attends_per_block=1,
            num_self_attention_heads=4,
            num_cross_attention_heads=4,
            vocab_size=96,
            max_position_embeddings=40,
            qk_channels=16,
            v_channels=32,
        ),
        lambda: {"inputs": tokens()},
        {
            "perceiver.input_preprocessor.embeddings.weight": "output oi sign",
            "perceiver.input_preprocessor.position_embeddings.weight": "position xo colnorm",
            "perceiver.embeddings.latents": "token xo rms",
            "perceiver.decoder.output_position_encodings.position_embeddings": "token xo rms",
            "*.query.weight": "hidden oi spectral",
            "*.key.weight": "hidden oi spectral",
            "*.value.weight": "hidden oi spectral",
            "*.dense*.weight": "hidden oi spectral",
            "*layernorm*.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
}
