"""Small models of well-known families with random weights, and the rows that are right for them."""

from __future__ import annotations

from torch import nn

from tests.zoo.adapted import ADAPTED
from tests.zoo.asking import ASKING
from tests.zoo.awkward import AWKWARD
from tests.zoo.case import Case, pixels, tokens
from tests.zoo.convolutional import CONVOLUTIONAL
from tests.zoo.decoders import DECODERS
from tests.zoo.encoders import ENCODERS
from tests.zoo.experts import EXPERTS
from tests.zoo.families import FAMILIES
from tests.zoo.foretelling import FORETELLING
from tests.zoo.gathering import GATHERING
from tests.zoo.generative import GENERATIVE
from tests.zoo.hearing import HEARING
from tests.zoo.hybrids import HYBRIDS
from tests.zoo.latents import LATENTS
from tests.zoo.mixers import MIXERS
from tests.zoo.nano_gpt import NanoGPT
from tests.zoo.other import OTHER
from tests.zoo.recurring import RECURRING
from tests.zoo.scans import SCANS
from tests.zoo.seeing import SEEING
from tests.zoo.sequences import SEQUENCES
from tests.zoo.shelves import SHELVES
from tests.zoo.transforming import TRANSFORMING
from tests.zoo.volumes import VOLUMES
from tests.zoo.wrapped import WRAPPED


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=2,
            n_embd=64,
            n_head=4,
            vocab_size=96,
            n_positions=32,
            use_cache=False,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
                    intermediate_size=160, vocab_size=96, use_cache=False)
    )  # fmt: skip


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=160, vocab_size=96)
    )


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=160, image_size=32,
                  patch_size=8, num_labels=10)
    )  # fmt: skip


def _resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic", num_labels=10)
    )


FAMOUS: dict[str, Case] = {
    "hf-gpt2": Case(
        _gpt2,
        lambda: {"input_ids": tokens()},
        {
            "transformer.wte.weight": "output oi sign",
            "transformer.wpe.weight": "position xo colnorm",
            "*.ln_?.weight": "gain o rms",
            "*.ln_?.bias": "bias o rms",
            "*.c_attn.weight": "hidden io spectral 64 64 64",
            "*.c_attn.bias": "bias o rms 64 64 64",
            "*.c_proj.weight": "hidden io spectral",
            "*.c_fc.weight": "hidden io spectral",
            "*.c_proj.bias": "bias o rms",
            "*.c_fc.bias": "bias o rms",
        },
    ),
    "hf-llama": Case(
        _llama,
        lambda: {"input_ids": tokens()},
        {
            "model.embed_tokens.weight": "embedding xo colnorm",
            "*_proj.weight": "hidden oi spectral",
            "*norm.weight": "gain o rms",
            "lm_head.weight": "output oi sign",
        },
    ),
    "hf-bert": Case(
        _bert,
        lambda: {"input_ids": tokens()},
        {
            "bert.embeddings.word_embeddings.weight": "output oi sign",
            "bert.embeddings.position_embeddings.weight": "position xo colnorm",
            "bert.embeddings.token_type_embeddings.weight": "embedding xo colnorm",
            "*LayerNorm.weight": "gain o rms",
            "*.query.weight": "hidden oi spectral",
            "*.key.weight": "hidden oi spectral",
            "*.value.weight": "hidden oi spectral",
            "*.dense.weight": "hidden oi spectral",
            "*bias": "bias o rms",
        },
    ),
    "hf-vit": Case(
        _vit,
        lambda: {"pixel_values": pixels()},
        {
            "vit.embeddings.cls_token": "token --o rms",
            "vit.embeddings.position_embeddings": "position -xo colnorm",
            "vit.embeddings.patch_embeddings.projection.weight": "input oikk spectral",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "*layernorm*.weight": "gain o rms",
            "classifier.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "hf-resnet": Case(
        _resnet,
        lambda: {"pixel_values": pixels()},
        {
            "resnet.embedder.embedder.convolution.weight": "input oikk spectral",
            "resnet.encoder.*.convolution.weight": "hidden oikk spectral",
            "*.normalization.weight": "gain o rms",
            "classifier.1.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "nano-gpt": Case(
        NanoGPT,
        lambda: tokens(),
        {
            "wte.weight": "output oi sign",
            "wpe.weight": "position xo colnorm",
            "*.c_attn.weight": "hidden oi spectral 48 48 48",
            "*.c_proj.weight": "hidden oi spectral",
            "*.up.weight": "hidden oi spectral",
            "*.down.weight": "hidden oi spectral",
            "*ln_?.weight": "gain o rms",
            "*.bias": "bias o rms",
        },
    ),
    "nano-gpt-with-loss": Case(
        NanoGPT,
        lambda: (tokens(), tokens()),
        {
            "wte.weight": "output oi sign",
            "wpe.weight": "position xo colnorm",
            "*.c_attn.weight": "hidden oi spectral 48 48 48",
            "*.c_proj.weight": "hidden oi spectral",
            "*.up.weight": "hidden oi spectral",
            "*.down.weight": "hidden oi spectral",
            "*ln_?.weight": "gain o rms",
            "*.bias": "bias o rms",
        },
    ),
}


def _together(*parts: dict[str, Case]) -> dict[str, Case]:
    """All cases; a name that two parts use is a mistake."""
    names = [name for part in parts for name in part]
    assert len(set(names)) == len(names), sorted(name for name in set(names) if names.count(name) > 1)
    return {name: case for part in parts for name, case in part.items()}


CASES: dict[str, Case] = _together(
    FAMOUS, AWKWARD, FAMILIES, DECODERS, RECURRING, ENCODERS, SEEING, GATHERING, HEARING, FORETELLING, CONVOLUTIONAL,
    VOLUMES, GENERATIVE, HYBRIDS, MIXERS, OTHER, LATENTS, SEQUENCES, SCANS, TRANSFORMING, EXPERTS, WRAPPED, ADAPTED,
    SHELVES, ASKING,
)  # fmt: skip
