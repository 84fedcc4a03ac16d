"""State spaces, linear recurrences and hybrids of them with attention; recurrent relative positions."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.zoo.case import Case, tokens
from tests.zoo.decoders import GROUPED
from tests.zoo.families import LLAMA_LIKE, SMALL, model, text

# A matrix makes the gate, the input, B and C (through one depthwise convolution) and the step of every head.
MAMBA2 = {
    "*.in_proj.weight": "hidden oi spectral 128 128 16 16 8",
    "*.conv1d.weight": "depthwise bik rownorm",
    "*.A_log": "state o sign",
    "*.D": "gain o rms",
    "*bias": "bias o rms",
}


def masked() -> dict[str, Tensor]:
    """XLNet's pretraining: two segments, and three places to be foretold."""
    targets = torch.zeros(2, 3, 8)
    for i, place in enumerate((2, 5, 7)):
        targets[:, i, place] = 1
    types = (torch.arange(8) > 4).long().expand(2, 8)
    return {"input_ids": tokens(), "token_type_ids": types, "target_mapping": targets}


RECURRING: dict[str, Case] = {
    "mamba2": Case(
        model(
            "Mamba2ForCausalLM",
            "Mamba2Config",
            num_hidden_layers=2,
            hidden_size=64,
            num_heads=8,
            head_dim=16,
            n_groups=2,
            state_size=8,
            chunk_size=8,
            vocab_size=96,
            use_cache=False,
        ),
        text,
        MAMBA2
        | {
            "backbone.embeddings.weight": "embedding xo colnorm",
            "*.out_proj.weight": "hidden oi spectral",
            "*norm*.weight": "gain o rms",
            "lm_head.weight": "output oi sign",
        },
    ),
    "bamba": Case(
        model(
            "BambaForCausalLM",
            "BambaConfig",
            **GROUPED,
            attn_layer_indices=[1],
            mamba_n_heads=8,
            mamba_d_head=16,
            mamba_n_groups=2,
            mamba_d_state=8,
            mamba_chunk_size=8,
        ),
        text,
        LLAMA_LIKE | MAMBA2,
    ),
    "falcon-h1": Case(
        model(
            "FalconH1ForCausalLM",
            "FalconH1Config",
            **GROUPED,
            head_dim=16,
            mamba_d_ssm=64,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_d_state=8,
            mamba_chunk_size=8,
        ),
        text,
        LLAMA_LIKE | MAMBA2 | {"*.in_proj.weight": "hidden oi spectral 64 64 8 8 4"},
    ),
    "nemotron-h": Case(
        model(
            "NemotronHForCausalLM",
            "NemotronHConfig",
            **GROUPED | {"num_hidden_layers": 3},
            hybrid_override_pattern="M*-",
            head_dim=16,
            mamba_num_heads=8,
            mamba_head_dim=16,
            n_groups=2,
            ssm_state_size=8,
            chunk_size=8,
        ),
        text,
        MAMBA2
        | {
            "model.embeddings.weight": "embedding xo colnorm",
            "*_proj.weight": "hidden oi spectral",
            "*norm*.weight": "gain o rms",
            "lm_head.weight": "output oi sign",
        },
    ),
    "jamba": Case(
        model(
            "JambaForCausalLM",
            "JambaConfig",
            **GROUPED,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            num_experts=4,
            mamba_d_state=8,
            mamba_dt_rank=4,
        ),
        text,
        LLAMA_LIKE
        | {
            "*.A_log": "state ox sign",
            "*.D": "gain o rms",
            "*.conv1d.weight": "depthwise bik rownorm",
            "*.in_proj.weight": "hidden oi spectral 128 128",
            "*.x_proj.weight": "hidden oi spectral 4 8 8",
            "*.router.weight": "router oi rownorm",
            "*.experts.gate_up_proj": "hidden boi spectral 96 96",
            "*.experts.down_proj": "hidden boi spectral",
            "*bias": "bias o rms",
        },
    ),
    # time_mix weighs a place against the one before it, channel by channel. time_decay is the recurrence's rate, by an
    # exponential, as A_log is; it is added in the log domain.
    "rwkv": Case(
        model("RwkvForCausalLM", "RwkvConfig", num_hidden_layers=2, hidden_size=64, vocab_size=96, use_cache=False),
        text,
        {
            "rwkv.embeddings.weight": "embedding xo colnorm",
            "*.time_mix_*": "gain --o rms",
            "*.time_decay": "state o sign",
            "*.time_first": "bias o rms",
            "*.attention.*.weight": "hidden oi spectral",
            "*.feed_forward.*.weight": "hidden oi spectral",
            "*ln*.weight": "gain o rms",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    # The gates are block-diagonal; their biases have an entry for every channel, heads by width.
    "recurrent-gemma": Case(
        model(
            "RecurrentGemmaForCausalLM",
            "RecurrentGemmaConfig",
            **SMALL | {"num_hidden_layers": 3},
            num_key_value_heads=1,
            lru_width=64,
            attention_window_size=16,
        ),
        text,
        {
            "model.embed_tokens.weight": "output oi sign",
            "*.linear_*.weight": "hidden oi spectral",
            "*_proj.weight": "hidden oi spectral",
            "*.conv_1d.weight": "depthwise bik rownorm",
            "*.recurrent_param": "state o sign",
            "*_gate_weight": "hidden bio spectral",
            "*_gate_bias": "bias bo rms",
            "*norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    # r meets a fixed table of sines, before which there is no weight. seg_embed's two entries are scored by every
    # query as keys are, head by head; one could call it an embedding of (same, other) segment as well.
    "xlnet": Case(
        model("XLNetLMHeadModel", "XLNetConfig", n_layer=2, d_model=64, n_head=4, d_inner=96, vocab_size=96),
        masked,
        {
            "transformer.mask_emb": "token --o rms",
            "transformer.word_embedding.weight": "output oi sign",
            "*.rel_attn.[qkv]": "hidden ioo spectral",
            "*.rel_attn.o": "hidden oii spectral",
            "*.rel_attn.r": "input ioo spectral",
            "*.r_?_bias": "bias oo rms",
            "*.seg_embed": "hidden obi spectral",
            "*.layer_?.weight": "hidden oi spectral",
            "*.layer_norm.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
}
