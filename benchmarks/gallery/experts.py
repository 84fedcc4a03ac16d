"""Stacks of matrices: experts in three axes and in four, layers in one tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gallery.attention import DECODER
from benchmarks.gallery.entry import PLAIN, TRANSFORMERS, Entry, issue, pull, released, text
from tests.zoo.case import Case, tokens


class StackedExperts(nn.Module):
    """Experts of all layers in one tensor, [layers, experts, in, out], mixed by a router a layer."""

    def __init__(self, layers: int = 3, experts: int = 4, width: int = 128, inner: int = 256) -> None:
        super().__init__()
        self.token_embed, self.output_proj = nn.Embedding(512, width), nn.Linear(width, 512, bias=False)
        self.router = nn.Parameter(torch.randn(layers, width, experts) * 0.1)
        self.w_gate, self.w_up = (nn.Parameter(torch.randn(layers, experts, width, inner) * 0.1) for _ in range(2))
        self.w_down = nn.Parameter(torch.randn(layers, experts, inner, width) * 0.1)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, places]."""
        x = self.token_embed(ids)
        for layer in range(len(self.router)):
            u = F.rms_norm(x, x.shape[-1:])
            share, chosen = (u @ self.router[layer]).softmax(-1).topk(2)
            shares = torch.zeros_like(u[..., : self.router.shape[-1]]).scatter(-1, chosen, share)
            sent = shares.flatten(0, 1).T.unsqueeze(-1) * u.flatten(0, 1)  # [experts, tokens, width]
            inner = F.silu(sent @ self.w_gate[layer]) * (sent @ self.w_up[layer])
            x = x + (inner @ self.w_down[layer]).sum(0).view_as(x)
        out: Tensor = self.output_proj(x)
        return out


EXPERTS: dict[str, Entry] = {
    "mixtral": Entry(
        "Mixtral: experts in three axes",
        Case(
            released("MixtralForCausalLM", num_hidden_layers=1),
            text,
            DECODER
            | {
                "*.mlp.gate.weight": "router oi sign",
                "*.experts.gate_up_proj": "hidden boi spectral 14336 14336",
                "*.experts.down_proj": "hidden boi spectral",
                "*layernorm.weight": "gain o sign",
            },
        ),
        ("*.experts.gate_up_proj", "*.experts.down_proj", "*.mlp.gate.weight"),
        TRANSFORMERS.format("MixtralForCausalLM", "one layer"),
        "Eight experts lie in one tensor, [expert, out, in], and each holds its gate and its up. normc takes "
        "the first axis "
        "for a stack and cuts the second in two: sixteen matrices. The router is a role of its own.",
        (
            pull("pytorch/pytorch", 190597, "torch's Muon refuses them: a flag for batches of matrices is proposed."),
            pull("pytorch/pytorch", 197202, "the same for per-head and per-expert Muon."),
            pull("huggingface/lerobot", 4658, "writes an optimizer of its own, since torch's raises on three axes."),
        ),
    ),
    "gpt-oss": Entry(
        "gpt-oss: interleaved experts, stored (in, out)",
        Case(
            released("GptOssForCausalLM", num_hidden_layers=1),
            text,
            DECODER
            | {
                "*.sinks": "token o sign",
                "*.router.weight": "router oi sign",
                "*.experts.gate_up_proj": "hidden bio spectral ~2880 ~2880",
                "*.experts.gate_up_proj_bias": "bias bo sign ~2880 ~2880",
                "*.experts.down_proj": "hidden bio spectral",
                "*.experts.down_proj_bias": "bias bo sign",
                "*layernorm.weight": "gain o sign",
                "*.bias": "bias o sign",
            },
        ),
        ("*.experts.gate_up_proj", "*.experts.gate_up_proj_bias", "*.experts.down_proj"),
        TRANSFORMERS.format("GptOssForCausalLM", "one layer"),
        "Experts are stored [expert, in, out], the other way round from Mixtral's, and gate and up take turns "
        "along the "
        "last axis. `down_proj` is 2880 by 2880: its shape couldn't tell. Biases of two axes are biases all the "
        "same.",
        (
            pull(
                "AI-Hypercomputer/maxtext",
                4843,
                "experts of gpt-oss and Qwen3 were orthogonalised across the expert axis, "
                "as their modules have other names; biases named `wi_0_bias` were taken for matrices.",
            ),
        ),
    ),
    "experts-of-all-layers": Entry(
        "Experts in four axes",
        Case(
            StackedExperts,
            tokens,
            {
                "token_embed.weight": "embedding xo sign",
                "output_proj.weight": "output oi sign",
                "router": "router bio sign",
                "w_gate": "hidden bbio spectral",
                "w_up": "hidden bbio spectral",
                "w_down": "hidden bbio spectral",
            },
        ),
        ("w_gate", "w_down", "router"),
        PLAIN.format("experts.py", "marin's mixture of experts"),
        "One tensor holds the experts of all layers, [layers, experts, in, out]. Both first axes are stacks: twelve "
        "matrices, each with a norm of its own.",
        (
            issue(
                "marin-community/marin", 8621, "the norm was taken over the expert axis, for the code knew three axes."
            ),
            pull("marin-community/marin", 8749, "takes it over the last two axes."),
        ),
    ),
}
