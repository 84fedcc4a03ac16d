"""Gate and up in one matrix, in halves or row by row; gates that names take for something else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gallery.attention import DECODER
from benchmarks.gallery.entry import LINEAR, PLAIN, TRANSFORMERS, Entry, issue, pull, released, text
from tests.zoo.case import Case, tokens


class InterleavedSwiGLU(nn.Module):
    """Rows of `w13` in turn: gate 0, up 0, gate 1, up 1."""

    def __init__(self, width: int = 256, inner: int = 512) -> None:
        super().__init__()
        self.tok_embeddings, self.norm = nn.Embedding(512, width), nn.RMSNorm(width)
        self.w13, self.w2 = nn.Linear(width, 2 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.output = nn.Linear(width, 512, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, places]."""
        x = self.tok_embeddings(ids)
        gate, up = self.w13(self.norm(x)).unflatten(-1, (-1, 2)).unbind(-1)
        out: Tensor = self.output(x + self.w2(F.silu(gate) * up))
        return out


class GatedNorm(nn.Module):
    """A norm whose result is scaled by a gate of low rank."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.w_down, self.w_up = nn.Parameter(torch.randn(width, rank) * 0.1), nn.Parameter(torch.zeros(rank, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, places, width]."""
        x = F.rms_norm(x, x.shape[-1:])
        return x * (F.silu(x @ self.w_down) @ self.w_up).sigmoid()


class GatedNorms(nn.Module):
    """An attention block and an MLP, each behind a gated norm; the attention's result has a gate of its own."""

    def __init__(self, width: int = 256, heads: int = 8, rank: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.token_embed, self.output_proj = nn.Embedding(512, width), nn.Linear(width, 512, bias=False)
        self.attn_gated_norm, self.mlp_gated_norm = GatedNorm(width, rank), GatedNorm(width, rank)
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.attn_gate = nn.Linear(width, heads, bias=False)
        self.mlp_up, self.mlp_down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, places]."""
        x = self.token_embed(ids)
        u = self.attn_gated_norm(x)
        q, k, v = (layer(u).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.w_q, self.w_k, self.w_v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + self.w_o((y * self.attn_gate(u).sigmoid().unsqueeze(-1)).flatten(2))
        out: Tensor = self.output_proj(x + self.mlp_down(self.mlp_up(self.mlp_gated_norm(x)).relu().square()))
        return out


GATES: dict[str, Entry] = {
    "swiglu-interleaved": Entry(
        "SwiGLU with gate and up in turn",
        Case(
            InterleavedSwiGLU,
            tokens,
            {
                "tok_embeddings.weight": "embedding xo sign",
                "norm.weight": "gain o sign",
                "w13.weight": "hidden oi spectral ~512 ~512",
                "w2.weight": LINEAR,
                "output.weight": "output oi sign",
            },
        ),
        ("w13.weight", "output.weight"),
        PLAIN.format("gates.py", "torchtitan's fused feed-forward of September 2026"),
        "Even rows are the gate, odd rows are the product's other side. normc finds two blocks of 512 rows each, 512 "
        "stretches long. The head is called `output`, which no list of names here has.",
        (
            pull(
                "pytorch/torchtitan",
                4531,
                "the rows were orthogonalised together; metadata for the layout was added by hand.",
            ),
            issue("pytorch/torchtitan", 4532, "the same as a bug: an update of the wrong geometry."),
        ),
    ),
    "phi-3": Entry(
        "Phi-3: fused q, k, v and fused gate, up",
        Case(
            released("Phi3ForCausalLM", num_hidden_layers=1),
            text,
            DECODER
            | {
                "*.qkv_proj.weight": "hidden oi spectral 3072 3072 3072",
                "*.gate_up_proj.weight": "hidden oi spectral 8192 8192",
                "*layernorm.weight": "gain o sign",
            },
        ),
        ("*.gate_up_proj.weight", "*.qkv_proj.weight"),
        TRANSFORMERS.format("Phi3ForCausalLM", "one layer"),
        "Two fused matrices a layer. Taken whole, `gate_up_proj` would be 3072→16384, and a step of one half "
        "would depend "
        "on the gradient of the other.",
        (
            issue("NVIDIA/Megatron-LM", 7077, "the fused first layer of a gated MLP was orthogonalised as one matrix."),
            pull("NVIDIA/Megatron-LM", 6688, "splits it, by a tag on layers whose configuration is gated."),
        ),
    ),
    "gated-norm": Entry(
        "Gated norms",
        Case(
            GatedNorms,
            tokens,
            {
                "token_embed.weight": "embedding xo sign",
                "output_proj.weight": "output oi sign",
                "*gated_norm.w_*": "hidden io spectral",
                "w_?.weight": LINEAR,
                "attn_gate.weight": LINEAR,
                "mlp_*.weight": LINEAR,
            },
        ),
        ("attn_gated_norm.w_up", "mlp_gated_norm.w_up", "output_proj.weight"),
        PLAIN.format("gates.py", "the gated norms of marin's experiments"),
        "Both gated norms are two matrices of low rank, stored (in, out). They have one role and one norm, "
        "since the role "
        "comes from what they do.",
        (
            issue(
                "marin-community/marin",
                5647,
                "a rule for `attn_gate` also caught `attn_gated_norm`: one of four went to Adam.",
            ),
            issue("marin-community/marin", 5750, "compares all ways to route them, the accidental one included."),
        ),
    ),
}
