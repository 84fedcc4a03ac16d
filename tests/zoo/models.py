"""Small models of well-known families with random weights, and the rows that are right for them."""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo.awkward import AWKWARD
from tests.zoo.case import Case, pixels, tokens


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


class Attention(nn.Module):
    """nanoGPT's: q, k and v from one linear, split into three."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, time, width]."""
        batch, time, width = x.shape
        q, k, v = self.c_attn(x).split(width, dim=2)
        q, k, v = (t.view(batch, time, self.heads, width // self.heads).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * k.shape[-1] ** -0.5
        mask = torch.tril(torch.ones(time, time, device=x.device)).view(1, 1, time, time)
        weights = scores.masked_fill(mask == 0, float("-inf")).softmax(dim=-1)
        return self.c_proj((weights @ v).transpose(1, 2).contiguous().view(batch, time, width))


class Layer(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, bias=False)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, time, width]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.down(nn.functional.gelu(self.up(self.ln_2(x))))


class NanoGPT(nn.Module):
    """nanoGPT as written by hand: tied head, learned positions, loss inside forward when targets are given."""

    def __init__(
        self, vocabulary: int = 96, width: int = 48, heads: int = 4, layers: int = 2, context: int = 16
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.wte.weight = self.head.weight

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """idx, targets: [batch, time]. The logits, or the loss if there are targets."""
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln_f(x))
        if targets is None:
            return logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


CASES: dict[str, Case] = {
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
CASES |= AWKWARD
