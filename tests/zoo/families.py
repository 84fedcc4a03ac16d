"""More families: decoders, encoders, encoder-decoders, mixtures of experts, state spaces, vision, pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tests.zoo.case import Case, pixels, tokens

SMALL: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 96,
    "max_position_embeddings": 40, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def model(name: str, config: str, **sizes: Any) -> Callable[[], nn.Module]:
    """A model class of transformers with random weights, by the names of the class and of its config."""

    def build() -> nn.Module:
        import transformers

        made: nn.Module = getattr(transformers, name)(getattr(transformers, config)(**sizes))
        return made

    return build


def text() -> dict[str, Tensor]:
    """Token ids."""
    return {"input_ids": tokens()}


class Recurrent(nn.Module):
    """Two layers of LSTM both ways, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(96, 8), nn.Linear(12, 96)
        self.lstm = nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(32, 12, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, time]."""
        out: Tensor = self.head(self.gru(self.lstm(self.embed(ids))[0])[0])
        return out


TOWER = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "projection_dim": 16,
}
LLAMA_LIKE = {
    "model.embed_tokens.weight": "embedding xo colnorm",
    "*_proj.weight": "hidden oi spectral",
    "*norm.weight": "gain o rms",
    "lm_head.weight": "output oi sign",
}
BERT_LIKE = {
    "*.word_embeddings.weight": "output oi sign",
    "*.position_embeddings.weight": "position xo colnorm",
    "*.token_type_embeddings.weight": "embedding xo colnorm",
    "*ayer*orm.weight": "gain o rms",
    "*layer_norm.weight": "gain o rms",
    "*.query.weight": "hidden oi spectral",
    "*.key.weight": "hidden oi spectral",
    "*.value.weight": "hidden oi spectral",
    "*dense.weight": "hidden oi spectral",
    "*bias": "bias o rms",
}

FAMILIES: dict[str, Case] = {
    "bloom": Case(
        model("BloomForCausalLM", "BloomConfig", n_layer=2, hidden_size=64, n_head=4, vocab_size=96, use_cache=False),
        text,
        {
            "transformer.word_embeddings.weight": "output oi sign",
            "*.query_key_value.weight": "hidden oi spectral ~64 ~64 ~64",
            "*.query_key_value.bias": "bias o rms ~64 ~64 ~64",
            "*.dense.weight": "hidden oi spectral",
            "*.dense_*.weight": "hidden oi spectral",
            "*layernorm.weight": "gain o rms",
            "transformer.ln_f.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    "gpt-neox": Case(
        model("GPTNeoXForCausalLM", "GPTNeoXConfig", **SMALL),
        text,
        {
            "gpt_neox.embed_in.weight": "embedding xo colnorm",
            "*.query_key_value.weight": "hidden oi spectral ~64 ~64 ~64",
            "*.query_key_value.bias": "bias o rms ~64 ~64 ~64",
            "*.dense.weight": "hidden oi spectral",
            "*.dense_*.weight": "hidden oi spectral",
            "*norm.weight": "gain o rms",
            "lm_head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "phi3": Case(
        model("Phi3ForCausalLM", "Phi3Config", **SMALL, num_key_value_heads=2),
        text,
        LLAMA_LIKE
        | {
            "*.qkv_proj.weight": "hidden oi spectral 64 32 32",
            "*.gate_up_proj.weight": "hidden oi spectral 96 96",
        },
    ),
    "gemma": Case(
        model("GemmaForCausalLM", "GemmaConfig", **SMALL, num_key_value_heads=2, head_dim=16),
        text,
        {
            "model.embed_tokens.weight": "output oi sign",
            "*_proj.weight": "hidden oi spectral",
            "*norm.weight": "gain o rms",
        },
    ),
    "qwen3": Case(
        model("Qwen3ForCausalLM", "Qwen3Config", **SMALL, num_key_value_heads=2, head_dim=16), text, LLAMA_LIKE
    ),
    "mixtral": Case(
        model("MixtralForCausalLM", "MixtralConfig", **SMALL, num_key_value_heads=2, num_local_experts=4),
        text,
        LLAMA_LIKE
        | {
            "*.mlp.gate.weight": "router oi rownorm",
            "*.experts.gate_up_proj": "hidden boi spectral 96 96",
            "*.experts.down_proj": "hidden boi spectral",
        },
    ),
    "gpt-oss": Case(
        model(
            "GptOssForCausalLM",
            "GptOssConfig",
            **SMALL,
            num_key_value_heads=2,
            head_dim=16,
            num_local_experts=4,
            num_experts_per_tok=2,
        ),
        text,
        LLAMA_LIKE
        | {
            "*bias": "bias o rms",
            "*.sinks": "token o rms",
            "*.router.weight": "router oi rownorm",
            "*.experts.gate_up_proj": "hidden bio spectral ~96 ~96",
            "*.experts.down_proj": "hidden bio spectral",
            "*.experts.gate_up_proj_bias": "bias bo rms ~96 ~96",
            "*.experts.down_proj_bias": "bias bo rms",
        },
    ),
    "opt": Case(
        model(
            "OPTForCausalLM",
            "OPTConfig",
            num_hidden_layers=2,
            hidden_size=64,
            num_attention_heads=4,
            ffn_dim=96,
            vocab_size=96,
            use_cache=False,
            word_embed_proj_dim=64,
            max_position_embeddings=40,
        ),
        text,
        {
            "model.decoder.embed_tokens.weight": "output oi sign",
            "model.decoder.embed_positions.weight": "position xo colnorm",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "*layer_norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    "roberta": Case(model("RobertaForMaskedLM", "RobertaConfig", **SMALL), text, BERT_LIKE),
    "t5": Case(
        model(
            "T5ForConditionalGeneration",
            "T5Config",
            num_layers=2,
            d_model=64,
            d_ff=96,
            d_kv=16,
            num_heads=4,
            vocab_size=96,
            use_cache=False,
        ),
        lambda: {"input_ids": tokens(), "decoder_input_ids": tokens(5)},
        {
            "shared.weight": "output oi sign",
            "*.relative_attention_bias.weight": "position xo colnorm",
            "*Attention.?.weight": "hidden oi spectral",
            "*.w?.weight": "hidden oi spectral",
            "*layer_norm.weight": "gain o rms",
        },
    ),
    "mamba": Case(
        model(
            "MambaForCausalLM",
            "MambaConfig",
            num_hidden_layers=2,
            hidden_size=64,
            state_size=8,
            vocab_size=96,
            use_cache=False,
        ),
        text,
        {
            "backbone.embeddings.weight": "output oi sign",
            "*.A_log": "state ox sign",
            "*.D": "gain o rms",
            "*.conv1d.weight": "depthwise bik rownorm",
            "*.in_proj.weight": "hidden oi spectral 128 128",
            "*.x_proj.weight": "hidden oi spectral 4 8 8",
            "*.dt_proj.weight": "hidden oi spectral",
            "*.out_proj.weight": "hidden oi spectral",
            "*norm*.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    "swin": Case(
        model(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=32,
            patch_size=4,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
            num_labels=10,
        ),
        lambda: {"pixel_values": pixels()},
        {
            "swin.embeddings.patch_embeddings.projection.weight": "input oikk spectral",
            "*.relative_position_bias_table": "position xo colnorm",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "*.reduction.weight": "hidden oi spectral",
            "*norm*.weight": "gain o rms",
            "classifier.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "convnext": Case(
        model(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            depths=[1, 1],
            hidden_sizes=[16, 32],
            num_stages=2,
            num_labels=10,
        ),
        lambda: {"pixel_values": pixels()},
        {
            "convnext.embeddings.patch_embeddings.weight": "input oikk spectral",
            "*.dwconv.weight": "depthwise bikk rownorm",
            "*.pwconv?.weight": "hidden oi spectral",
            "*.downsampling_layer.0.weight": "gain o rms",
            "*.downsampling_layer.1.weight": "hidden oikk spectral",
            "*norm.weight": "gain o rms",
            "*layer_scale_parameter": "gain o rms",
            "classifier.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "clip": Case(
        model(
            "CLIPModel",
            "CLIPConfig",
            projection_dim=16,
            text_config=TOWER | {"vocab_size": 96},
            vision_config=TOWER | {"image_size": 32, "patch_size": 8},
        ),
        lambda: {"input_ids": tokens(), "pixel_values": pixels()},
        {
            "logit_scale": "scalar  sign",
            "text_model.embeddings.token_embedding.weight": "embedding xo colnorm",
            "*.position_embedding.weight": "position xo colnorm",
            "vision_model.embeddings.class_embedding": "token o rms",
            "vision_model.embeddings.patch_embedding.weight": "input oikk spectral",
            "*_proj.weight": "hidden oi spectral",
            "*.fc?.weight": "hidden oi spectral",
            "*norm*.weight": "gain o rms",
            "*_projection.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "recurrent": Case(
        Recurrent,
        lambda: tokens(),
        {
            "embed.weight": "embedding xo colnorm",
            "lstm.weight_*": "hidden oi spectral 16 16 16 16",
            "lstm.bias_*": "bias o rms 16 16 16 16",
            "gru.weight_*": "hidden oi spectral 12 12 12",
            "gru.bias_*": "bias o rms 12 12 12",
            "head.weight": "output oi sign",
            "head.bias": "bias o rms",
        },
    ),
}
