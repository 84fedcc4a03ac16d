"""Queries, keys, values and gates that share a matrix, and heads that are asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gallery.entry import LINEAR, PLAIN, SHARED, TRANSFORMERS, Entry, issue, pull, released, text
from tests.zoo.case import Case, tokens


class GatedAttention(nn.Module):
    """Rows of `linear_qkv` by query group: a gate and a query for each of its heads, then one key and one value."""

    def __init__(self, width: int = 256, heads: int = 8, groups: int = 2, head: int = 32) -> None:
        super().__init__()
        self.heads, self.groups, self.head = heads, groups, head
        self.embedding, self.norm = nn.Embedding(512, width), nn.RMSNorm(width)
        self.linear_qkv = nn.Linear(width, (2 * heads + 2 * groups) * head, bias=False)
        self.linear_proj, self.output_layer = nn.Linear(heads * head, width, bias=False), nn.Linear(width, 512)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, places]."""
        x = self.embedding(ids)
        each = self.heads // self.groups * self.head
        rows = self.linear_qkv(self.norm(x)).unflatten(-1, (self.groups, -1))
        gate, q, k, v = rows.split([each, each, self.head, self.head], -1)
        q = q.reshape(*ids.shape, self.heads, self.head).transpose(1, 2)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        out: Tensor = self.output_layer(x + self.linear_proj(y * gate.flatten(2).sigmoid()))
        return out


class EinsumAttention(nn.Module):
    """Matrices of three axes, (width, heads, head) and back, contracted by einsum."""

    def __init__(self, width: int = 256, heads: int = 8, head: int = 32) -> None:
        super().__init__()
        self.embedding, self.norm, self.logits = nn.Embedding(512, width), nn.LayerNorm(width), nn.Linear(width, 512)
        self.query, self.key, self.value = (
            nn.Parameter(torch.randn(width, heads, head) / width**0.5) for _ in range(3)
        )
        self.out = nn.Parameter(torch.randn(heads, head, width) / width**0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, places]."""
        x = self.embedding(ids)
        u = self.norm(x)
        q, k, v = (torch.einsum("btd,dhe->bhte", u, weight) for weight in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.logits(x + torch.einsum("bhte,hed->btd", y, self.out))
        return out


NEXT = released(
    "Qwen3NextForCausalLM", num_hidden_layers=2, layer_types=["linear_attention", "full_attention"], num_experts=16,
    linear_num_key_heads=4, linear_num_value_heads=8,
)  # fmt: skip
DECODER = {
    "*embed_tokens.weight": "embedding xo sign",
    "*_proj.weight": LINEAR,
    "*norm.weight": "gain o sign",
    "lm_head.weight": "output oi sign",
}

ATTENTION: dict[str, Entry] = {
    "gated-attention": Entry(
        "Gated attention in one matrix",
        Case(
            GatedAttention,
            tokens,
            {
                "embedding.weight": "embedding xo sign",
                "norm.weight": "gain o sign",
                "linear_qkv.weight": "hidden oi spectral ~256 ~256 ~64 ~64",
                "linear_proj.weight": LINEAR,
                "output_layer.weight": "output oi sign",
                "output_layer.bias": "bias o sign",
            },
        ),
        ("linear_qkv.weight",),
        PLAIN.format("attention.py", "Megatron-Core's `SelfAttention` with `attention_output_gate`"),
        "The matrix holds four parts, not three: every query group has gates, queries, a key and a value. No "
        "name and no "
        "shape says so. normc follows each row to what it meets: the gate multiplies, queries and keys meet in "
        "scores.",
        (
            issue("NVIDIA/Megatron-LM", 4731, "the split into q, k and v fails where a gate lies in the same matrix."),
            pull("NVIDIA/Megatron-LM", 4728, "the fix: a fourth size, and a tag on each such parameter."),
        ),
    ),
    "qwen3-next": Entry(
        "Qwen3-Next: gated attention and Gated DeltaNet",
        Case(
            NEXT,
            text,
            DECODER
            | {
                "*.linear_attn.dt_bias": "bias o sign",
                "*.linear_attn.A_log": "state o sign",
                "*.conv1d.weight": "depthwise bik sign",
                "*.in_proj_qkvz.weight": "hidden oi spectral ~512 ~512 ~1024 ~1024",
                "*.in_proj_ba.weight": "hidden oi spectral ~8 ~8",
                "*.self_attn.q_proj.weight": "hidden oi spectral ~4096 ~4096",
                "*.mlp.gate.weight": "router oi sign",
                "*.experts.gate_up_proj": "hidden boi spectral 512 512",
                "*.experts.down_proj": "hidden boi spectral",
                "*.shared_expert_gate.weight": LINEAR,
                "*layernorm.weight": "gain o sign",
            },
        ),
        ("*.in_proj_qkvz.weight", "*.self_attn.q_proj.weight", "*.conv1d.weight"),
        SHARED.format("Qwen3NextForCausalLM", "one layer of each kind, 4 key and 8 value heads, 16 experts"),
        "`in_proj_qkvz` holds q, k, v and z of every key head in turn; `q_proj` holds a query and a gate of "
        "every head. "
        "The filter behind q, k and v has one window a channel, so its rows are no matrix.",
        (
            issue(
                "NVIDIA/Megatron-LM",
                2885,
                "may Muon be used with Gated DeltaNet? Its fused projection was taken whole.",
            ),
            pull("NVIDIA/Megatron-LM", 5400, "sends the fused projection to Adam, since no split was known."),
            pull("AI-Hypercomputer/maxtext", 4843, "a review finds the depthwise filter orthogonalised."),
        ),
    ),
    "qwen3-vl-vision": Entry(
        "The vision tower of Qwen3-VL",
        Case(
            released("Qwen3VLVisionModel", depth=1, deepstack_visual_indexes=[0]),
            lambda: {"hidden_states": torch.randn(64, 1536), "grid_thw": torch.tensor([[1, 8, 8]])},
            {
                "patch_embed.proj.weight": "input oikkk spectral",
                "pos_embed.weight": "position xo sign",
                "*.qkv.weight": "hidden oi spectral 1152 1152 1152",
                "*.qkv.bias": "bias o sign 1152 1152 1152",
                "*.attn.proj.weight": LINEAR,
                "*linear_fc?.weight": LINEAR,
                # Both mergers' last layers are what the tower hands on.
                "merger.linear_fc2.weight": "output oi sign",
                "deepstack_merger_list.0.linear_fc2.weight": "output oi sign",
                "*norm*.weight": "gain o sign",
                "*.bias": "bias o sign",
            },
        ),
        ("*.qkv.weight", "patch_embed.proj.weight"),
        TRANSFORMERS.format("Qwen3VLVisionModel", "one block"),
        "One matrix for q, k and v, with one bias, in a model that is trained beside a language model with another "
        "layout. The patch embedding has five axes: it is a matrix of the input, and `pos_embed` a table of places.",
        (
            pull(
                "InternLM/xtuner",
                2030,
                "declares by hand which rows of the tower's and of DeltaNet's matrices are q, k, v.",
            ),
        ),
    ),
    "falcon": Entry(
        "Falcon: q, k and v by group",
        Case(
            released(
                "FalconForCausalLM",
                num_hidden_layers=1,
                hidden_size=4096,
                num_attention_heads=64,
                num_kv_heads=8,
                new_decoder_architecture=True,
            ),
            text,
            {
                "transformer.word_embeddings.weight": "output oi sign",
                "*.query_key_value.weight": "hidden oi spectral ~4096 ~512 ~512",
                "*dense*.weight": LINEAR,
                "*ln_*.weight": "gain o sign",
                "*ln_*.bias": "bias o sign",
            },
        ),
        ("*.query_key_value.weight",),
        TRANSFORMERS.format("FalconForCausalLM", "one layer of width 4096 with 8 groups"),
        "Eight groups, each of eight query heads, a key head and a value head: k and v lie in eight stretches "
        "each. A cut "
        "into three sections would mix them, and no shape would tell.",
        (
            pull(
                "deepspeedai/DeepSpeed",
                8580,
                "fused weights were left whole, as their parts have unlike numbers of heads.",
            ),
        ),
    ),
    "gpt-neox": Entry(
        "GPT-NeoX: q, k and v of each head in turn",
        Case(
            released("GPTNeoXForCausalLM", num_hidden_layers=1),
            text,
            {
                "gpt_neox.embed_in.weight": "embedding xo sign",
                "*.query_key_value.weight": "hidden oi spectral ~6144 ~6144 ~6144",
                "*.query_key_value.bias": "bias o sign ~6144 ~6144 ~6144",
                "*.dense*.weight": LINEAR,
                "*norm.weight": "gain o sign",
                "*.bias": "bias o sign",
                "lm_head.weight": "output oi sign",
            },
        ),
        ("*.query_key_value.weight", "gpt_neox.embed_in.weight"),
        TRANSFORMERS.format("GPTNeoXForCausalLM", "one layer"),
        "The rows are q, k, v of head 0, then of head 1, and so on. Each of the three parts is 64 stretches. "
        "The bias has "
        "the same parts.",
        (
            pull("deepspeedai/DeepSpeed", 8580, "names this layout beside Falcon's: both were orthogonalised whole."),
            pull("lablup/mlxcel", 928, "the same layout as a trap of porting: a cut into thirds has the right shapes."),
        ),
    ),
    "llama-heads": Entry(
        "Llama: a norm for each head",
        Case(
            released("LlamaForCausalLM", num_hidden_layers=1, num_key_value_heads=8),
            text,
            DECODER
            | {
                "*.q_proj.weight": "hidden oi spectral" + 32 * " 128",
                "*.k_proj.weight": "hidden oi spectral" + 8 * " 128",
                "*.v_proj.weight": "hidden oi spectral" + 8 * " 128",
                "*layernorm.weight": "gain o sign",
            },
        ),
        ("*.q_proj.weight", "*.k_proj.weight"),
        TRANSFORMERS.format("LlamaForCausalLM", "one layer, 8 key heads"),
        "With `heads=True` every head is a block with fans and a norm of its own. Queries have 32 heads and "
        "keys 8, and "
        "normc reads both numbers off the attention, not off the configuration.",
        (
            issue("deepspeedai/DeepSpeed", 8367, "asks for Newton-Schulz by head, as Kimi K3 and GLM-5 do."),
            pull("NVIDIA/Megatron-LM", 6326, "derives the heads' rows from the layer that owns the matrix."),
            issue("MoonshotAI/Moonlight", 42, "asks why heads are orthogonalised together."),
        ),
        heads=True,
    ),
    "einsum-heads": Entry(
        "Attention matrices of three axes",
        Case(
            EinsumAttention,
            tokens,
            {
                "embedding.weight": "embedding xo sign",
                "norm.weight": "gain o sign",
                "norm.bias": "bias o sign",
                "logits.weight": "output oi sign",
                "logits.bias": "bias o sign",
                "query": "hidden ioo spectral",
                "key": "hidden ioo spectral",
                "value": "hidden ioo spectral",
                "out": "hidden iio spectral",
            },
        ),
        ("query", "out"),
        PLAIN.format("attention.py", "the einsum layers of Flax, Keras and MaxText"),
        "`query` is (width, heads, head): fan-in is the first axis, fan-out the other two. `out` is the other "
        "way round. "
        "Three axes say nothing of which is which, and neither is a stack of matrices.",
        (
            pull("keras-team/keras", 21885, "leaves kernels of three axes to AdamW: their form was a guess."),
            pull(
                "AI-Hypercomputer/maxtext",
                2546,
                "a table of names says for each kernel which axes are fan-in and fan-out.",
            ),
        ),
    ),
    "deepseek-v3": Entry(
        "DeepSeek-V3: latent attention",
        Case(
            released("DeepseekV3ForCausalLM", num_hidden_layers=2, first_k_dense_replace=1, n_routed_experts=16),
            text,
            DECODER
            | {
                "*.kv_a_proj_with_mqa.weight": "hidden oi spectral 512 64",
                "*.kv_b_proj.weight": "hidden oi spectral ~16384 ~16384",
                "*layernorm.weight": "gain o sign",
                "*.mlp.gate.weight": "router oi sign",
                "*.experts.gate_up_proj": "hidden boi spectral 2048 2048",
                "*.experts.down_proj": "hidden boi spectral",
            },
        ),
        ("*.kv_a_proj_with_mqa.weight", "*.kv_b_proj.weight", "*.q_b_proj.weight"),
        TRANSFORMERS.format("DeepseekV3ForCausalLM", "one dense layer and one of 16 experts"),
        "`kv_a_proj_with_mqa` makes the latent (512 rows) and the rotary key that all heads share (64 rows): "
        "they go to "
        "different places. `kv_b_proj` holds keys and values of each head in turn.",
        (
            pull(
                "NVIDIA/Megatron-LM", 5015, "adds splits of the latent projections, and a new case for each workload."
            ),
            pull("deepspeedai/DeepSpeed", 8384, "per-head Muon skipped latent attention in silence."),
            issue("pytorch/torchtitan", 4692, "lists the fused projections that an optimizer has to know by hand."),
        ),
    ),
}
