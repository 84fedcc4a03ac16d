"""Tables that are heads as well, heads under other names, heads of one output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gallery.convolutions import BIAS
from benchmarks.gallery.entry import LINEAR, PLAIN, TRANSFORMERS, Entry, issue, pull, released, text
from tests.zoo.case import Case, pixels, tokens


class Block(nn.Module):
    """Attention and an MLP, before each a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, places, width]."""
        q, k, v = (part.unflatten(-1, (8, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class MultiToken(nn.Module):
    """A decoder that also predicts the token after the next one, with the same table as embedding and as head."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.word_embeddings, self.block, self.norm = nn.Embedding(512, width), Block(width), nn.RMSNorm(width)
        self.mtp_hnorm, self.mtp_enorm, self.mtp_norm = nn.RMSNorm(width), nn.RMSNorm(width), nn.RMSNorm(width)
        self.mtp_proj, self.mtp_block = nn.Linear(2 * width, width, bias=False), Block(width)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids: [batch, places]."""
        x = self.word_embeddings(ids)
        h = self.block(x)
        joined = torch.cat((self.mtp_hnorm(h[:, :-1]), self.mtp_enorm(x[:, 1:])), -1)
        further = self.mtp_norm(self.mtp_block(self.mtp_proj(joined)))
        table = self.word_embeddings.weight
        return F.linear(self.norm(h), table), F.linear(further, table)


class HeadFirst(nn.Module):
    """A tied decoder whose head is registered before its table."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.decode, self.block, self.norm = nn.Linear(width, 512, bias=False), Block(width), nn.RMSNorm(width)
        self.tokens = nn.Embedding(512, width)
        self.tokens.weight = self.decode.weight

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, places]."""
        out: Tensor = self.decode(self.norm(self.block(self.tokens(ids))))
        return out


class ActorCritic(nn.Module):
    """A policy and a value over one convolutional body."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2)
        self.body, self.actor = nn.Linear(64 * 9 * 9, 512), nn.Linear(512, 18)
        self.critic1, self.critic2 = nn.Linear(512, 64), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [batch, 4, 84, 84], the last four frames."""
        h = self.body(self.conv2(self.conv1(x).relu()).relu().flatten(1)).relu()
        return self.actor(h), self.critic2(self.critic1(h).relu())


BLOCK = {
    "*norm*.weight": "gain o sign",
    "*.qkv.weight": "hidden oi spectral 256 256 256",
    "*.proj.weight": LINEAR,
    "*.up.weight": LINEAR,
    "*.down.weight": LINEAR,
}

HEADS: dict[str, Entry] = {
    "gpt-2": Entry(
        "GPT-2: a table that is the head",
        Case(
            released("GPT2LMHeadModel", n_layer=2),
            text,
            BIAS
            | {
                "transformer.wte.weight": "output oi sign",
                "transformer.wpe.weight": "position xo sign",
                "*.ln_?.weight": "gain o sign",
                "*.c_attn.weight": "hidden io spectral 768 768 768",
                "*.c_attn.bias": "bias o sign 768 768 768",
                "*.c_proj.weight": "hidden io spectral",
                "*.c_fc.weight": "hidden io spectral",
            },
        ),
        ("transformer.wte.weight", "*.c_attn.weight"),
        TRANSFORMERS.format("GPT2LMHeadModel", "two layers"),
        "`wte` is looked up and also read out. It is one row with both uses. Matrices are stored (in, out), so "
        "a scale by "
        "the first axis over the second is upside down for `c_fc` and `c_proj`, and `wte` has no embed in its name.",
        (
            pull(
                "InternLM/xtuner", 1486, "a review calls the names fragile: other models say wte, embed, output, head."
            ),
            pull("deepspeedai/DeepSpeed", 7641, "leaves out what has embed or lm_head in its name, for any model."),
        ),
    ),
    "tied-head-first": Entry(
        "A tied head that comes first",
        Case(HeadFirst, tokens, BLOCK | {"decode.weight": "output oi sign"}),
        ("decode.weight",),
        PLAIN.format("heads.py", "a tied decoder"),
        "The head is registered first, so PyTorch lists the shared table under the head's name alone. It is one "
        "row here, "
        "and both names find it.",
        (pull("unslothai/unsloth", 5933, "a review finds that tied tables are found in one order only."),),
    ),
    "multi-token": Entry(
        "Multi-token prediction over a tied table",
        Case(
            MultiToken,
            tokens,
            BLOCK | {"word_embeddings.weight": "output oi sign", "mtp_proj.weight": LINEAR},
        ),
        ("word_embeddings.weight", "mtp_proj.weight"),
        PLAIN.format("heads.py", "DeepSeek-V3's multi-token module, with a tied table"),
        "One table is used four times: looked up for both branches and read out by both. It has one role and "
        "one norm, "
        "whatever part of the model holds it. `mtp_proj` lies between activations and is hidden.",
        (
            issue(
                "NVIDIA/Megatron-LM",
                4641,
                "the copy on the last stage went to Muon, the one on the first to Adam: they drift.",
            ),
            pull("NVIDIA/Megatron-LM", 5034, "the fix: one more place that sets the tag."),
        ),
    ),
    "t5": Entry(
        "T5: one table under three names",
        Case(
            released("T5ForConditionalGeneration", num_layers=1),
            lambda: text() | {"decoder_input_ids": text(6)["input_ids"]},
            {
                "shared.weight": "output oi sign",
                "*Attention.?.weight": LINEAR,
                "*.DenseReluDense.w?.weight": LINEAR,
                "*relative_attention_bias.weight": "position xo sign",
                "*layer_norm.weight": "gain o sign",
            },
        ),
        ("shared.weight", "*relative_attention_bias.weight"),
        TRANSFORMERS.format("T5ForConditionalGeneration", "one layer on each side"),
        "The table is called `shared`, which is in no list of names. `relative_attention_bias.weight` has two "
        "axes, is "
        "called a bias and a weight, and is a table of distances.",
        (
            pull("InternLM/xtuner", 1486, "a review: rules by name fit one family of models."),
            pull("deepspeedai/DeepSpeed", 7641, "the rule by name that this page is held against."),
        ),
    ),
    "bert-classifier": Entry(
        "BERT with a classifier",
        Case(
            released("BertForSequenceClassification", num_hidden_layers=1),
            text,
            BIAS
            | {
                "*word_embeddings.weight": "embedding xo sign",
                "*position_embeddings.weight": "position xo sign",
                "*token_type_embeddings.weight": "embedding xo sign",
                "*LayerNorm.weight": "gain o sign",
                "*.query.weight": LINEAR,
                "*.key.weight": LINEAR,
                "*.value.weight": LINEAR,
                "*.dense.weight": LINEAR,
                "classifier.weight": "output oi sign",
            },
        ),
        ("classifier.weight", "bert.pooler.dense.weight"),
        TRANSFORMERS.format("BertForSequenceClassification", "one layer"),
        "The head is `classifier`, two outputs from 768 inputs. It has two axes and none of the names that "
        "rules leave out. "
        "The pooler before it is hidden.",
        (
            issue("KellerJordan/Muon", 13, "asks why a classifier head isn't for Muon, although it has two axes."),
            issue("KellerJordan/Muon", 31, "asks for guidelines: what is a head, in which model?"),
        ),
    ),
    "actor-critic": Entry(
        "An actor and a critic",
        Case(
            ActorCritic,
            lambda: pixels(84, 4),
            BIAS
            | {
                "conv1.weight": "input oikk spectral",
                "conv2.weight": "hidden oikk spectral",
                "body.weight": LINEAR,
                "actor.weight": "output oi sign",
                "critic1.weight": LINEAR,
                "critic2.weight": "output oi sign",
                "critic2.bias": "bias - sign",
            },
        ),
        ("actor.weight", "critic2.weight", "critic1.weight"),
        PLAIN.format("heads.py", "the usual agent for Atari games"),
        "Two heads, `actor` and `critic2`, the second with one output. `critic1` is hidden, although its name "
        "begins like a "
        "head's: only what comes after it tells.",
        (pull("Metta-AI/metta", 134, "a review: the critic's last layer and the embedding need the other optimizer."),),
    ),
}
