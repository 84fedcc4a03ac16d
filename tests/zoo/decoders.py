"""Decoders of transformers: one or few key heads, interleaved q, k and v, low-rank attention, many kinds of experts."""

from __future__ import annotations

from tests.zoo.case import Case
from tests.zoo.families import LLAMA_LIKE, SMALL, model, text

GROUPED = SMALL | {"num_key_value_heads": 2}
GPT_SMALL = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 32, "vocab_size": 96, "use_cache": False,
             "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
FALCON_SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 96,
                "use_cache": False}  # fmt: skip
FALCON_LIKE = {
    "*.dense.weight": "hidden oi spectral",
    "*.dense_*.weight": "hidden oi spectral",
    "*.ln_*.weight": "gain o rms",
    "*bias": "bias o rms",
}
GPT_LIKE = {
    "transformer.wte.weight": "embedding xo colnorm",
    "*_proj.weight": "hidden oi spectral",
    "*.fc_*.weight": "hidden oi spectral",
    "*.ln_?.weight": "gain o rms",
    "lm_head.weight": "output oi sign",
    "*bias": "bias o rms",
}
MIXTURE = {
    "*.gate.weight": "router oi rownorm",
    "*.experts.gate_up_proj": "hidden boi spectral 32 32",
    "*.experts.down_proj": "hidden boi spectral",
}

DECODERS: dict[str, Case] = {
    "falcon": Case(
        model("FalconForCausalLM", "FalconConfig", **FALCON_SMALL, multi_query=True, parallel_attn=True, bias=False),
        text,
        FALCON_LIKE
        | {
            "transformer.word_embeddings.weight": "output oi sign",
            "*.query_key_value.weight": "hidden oi spectral 64 16 16",
            "*.input_layernorm.weight": "gain o rms",
        },
    ),
    # Two groups of (q, q, k, v): q is the first half of each, k and v a quarter.
    "falcon-grouped": Case(
        model(
            "FalconForCausalLM",
            "FalconConfig",
            **FALCON_SMALL,
            num_kv_heads=2,
            new_decoder_architecture=True,
            bias=True,
            tie_word_embeddings=False,
        ),
        text,
        FALCON_LIKE
        | {
            "transformer.word_embeddings.weight": "embedding xo colnorm",
            "*.query_key_value.weight": "hidden oi spectral ~64 ~32 ~32",
            "*.query_key_value.bias": "bias o rms ~64 ~32 ~32",
            "lm_head.weight": "output oi sign",
        },
    ),
    "gpt-bigcode": Case(
        model("GPTBigCodeForCausalLM", "GPTBigCodeConfig", **GPT_SMALL, multi_query=True),
        text,
        {
            "transformer.wte.weight": "output oi sign",
            "transformer.wpe.weight": "position xo colnorm",
            "*.c_attn.weight": "hidden oi spectral 64 16 16",
            "*.c_attn.bias": "bias o rms 64 16 16",
            "*.c_proj.weight": "hidden oi spectral",
            "*.c_fc.weight": "hidden oi spectral",
            "*.ln_?.weight": "gain o rms",
            "*bias": "bias o rms",
        },
    ),
    "gptj": Case(model("GPTJForCausalLM", "GPTJConfig", **GPT_SMALL, rotary_dim=8), text, GPT_LIKE),
    # Four shards of (q, v, k), each a sixteenth of the width, whatever the number of heads.
    "codegen": Case(
        model("CodeGenForCausalLM", "CodeGenConfig", **GPT_SMALL, rotary_dim=8),
        text,
        GPT_LIKE | {"*.qkv_proj.weight": "hidden oi spectral ~64 ~64 ~64"},
    ),
    "mpt": Case(
        model(
            "MptForCausalLM",
            "MptConfig",
            n_layers=2,
            d_model=64,
            n_heads=4,
            max_seq_len=32,
            vocab_size=96,
            use_cache=False,
        ),
        text,
        {
            "transformer.wte.weight": "output oi sign",
            "*.Wqkv.weight": "hidden oi spectral 64 64 64",
            "*_proj.weight": "hidden oi spectral",
            "*norm_?.weight": "gain o rms",
        },
    ),
    # Experts lie one under another in matrices that are viewed as stacks; w2 is stored (in, out).
    "dbrx": Case(
        model(
            "DbrxForCausalLM",
            "DbrxConfig",
            d_model=64,
            n_heads=4,
            n_layers=2,
            max_seq_len=32,
            vocab_size=96,
            use_cache=False,
            attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        ),
        text,
        {
            "transformer.wte.weight": "embedding xo colnorm",
            "*.Wqkv.weight": "hidden oi spectral 64 32 32",
            "*.out_proj.weight": "hidden oi spectral",
            "*.router.layer.weight": "router oi rownorm",
            "*.mlp.w1": "hidden oi spectral 48 48 48 48",
            "*.mlp.v1": "hidden oi spectral 48 48 48 48",
            "*.mlp.w2": "hidden io spectral 48 48 48 48",
            "*norm_?.weight": "gain o rms",
            "lm_head.weight": "output oi sign",
        },
    ),
    "olmoe": Case(
        model(
            "OlmoeForCausalLM",
            "OlmoeConfig",
            **SMALL | {"intermediate_size": 32},
            num_experts=4,
            num_experts_per_tok=2,
        ),
        text,
        LLAMA_LIKE | MIXTURE,
    ),
    # The shared expert's gate is a matrix with one output.
    "qwen2-moe": Case(
        model(
            "Qwen2MoeForCausalLM",
            "Qwen2MoeConfig",
            **GROUPED,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=48,
            num_experts=4,
            num_experts_per_tok=2,
        ),
        text,
        LLAMA_LIKE | MIXTURE | {"*.shared_expert_gate.weight": "hidden oi spectral", "*bias": "bias o rms"},
    ),
    # Rotary and plain parts of a query are one query; the latent and the rotary key come from one matrix, as do the
    # keys and values of every head.
    "deepseek-v3": Case(
        model(
            "DeepseekV3ForCausalLM",
            "DeepseekV3Config",
            **SMALL,
            moe_intermediate_size=32,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=24,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=12,
        ),
        text,
        LLAMA_LIKE
        | MIXTURE
        | {
            "*.kv_a_proj_with_mqa.weight": "hidden oi spectral 16 8",
            "*.kv_b_proj.weight": "hidden oi spectral ~32 ~48",
        },
    ),
    "gemma2": Case(
        model("Gemma2ForCausalLM", "Gemma2Config", **GROUPED, head_dim=16),
        text,
        {
            "model.embed_tokens.weight": "output oi sign",
            "*_proj.weight": "hidden oi spectral",
            "*norm.weight": "gain o rms",
        },
    ),
    # The norms of q and k have a gain for every head and channel: features both.
    "cohere": Case(
        model("CohereForCausalLM", "CohereConfig", **GROUPED, use_qk_norm=True),
        text,
        {
            "model.embed_tokens.weight": "output oi sign",
            "*_proj.weight": "hidden oi spectral",
            "*norm.weight": "gain o rms",
            "*.?_norm.weight": "gain oo rms",
        },
    ),
    "glm4": Case(
        model("Glm4ForCausalLM", "Glm4Config", **GROUPED, head_dim=16),
        text,
        LLAMA_LIKE | {"*.gate_up_proj.weight": "hidden oi spectral 96 96", "*bias": "bias o rms"},
    ),
    # A norm of its own for every head: no reason to cut q and k.
    "stablelm": Case(
        model("StableLmForCausalLM", "StableLmConfig", **GROUPED, qk_layernorm=True, use_qkv_bias=True),
        text,
        LLAMA_LIKE | {"*layernorm.norms.*.weight": "gain o rms", "*bias": "bias o rms"},
    ),
}
