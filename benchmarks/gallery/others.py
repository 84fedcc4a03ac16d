"""Scans, modulation, sound, adapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.gallery.convolutions import BIAS
from benchmarks.gallery.entry import LINEAR, PLAIN, TRANSFORMERS, Entry, issue, pull, released, text
from tests.zoo.case import Case, pixels, tokens
from tests.zoo.generative import DiT


class Adapted(nn.Module):
    """A frozen embedding, layer and head, and an adapter of rank 8 beside the layer."""

    def __init__(self, width: int = 512, rank: int = 8) -> None:
        super().__init__()
        self.embed, self.base, self.head = nn.Embedding(512, width), nn.Linear(width, width), nn.Linear(width, 512)
        self.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, places]."""
        x = self.embed(ids)
        out: Tensor = self.head((self.base(x) + 2.0 * self.lora_B(self.lora_A(x))).relu())
        return out


OTHERS: dict[str, Entry] = {
    "mamba": Entry(
        "Mamba: a state, a scan and a short filter",
        Case(
            released("MambaForCausalLM", num_hidden_layers=1),
            text,
            {
                "backbone.embeddings.weight": "output oi sign",
                "*norm*.weight": "gain o sign",
                "*.A_log": "state ox sign",
                "*.D": "gain o sign",
                "*.conv1d.weight": "depthwise bik sign",
                "*.conv1d.bias": "bias o sign",
                "*.in_proj.weight": "hidden oi spectral 1536 1536",
                "*.x_proj.weight": "hidden oi spectral 48 16 16",
                "*.dt_proj.weight": LINEAR,
                "*.dt_proj.bias": "bias o sign",
                "*.out_proj.weight": LINEAR,
            },
        ),
        ("*.A_log", "*.conv1d.weight", "*.in_proj.weight", "*.x_proj.weight"),
        TRANSFORMERS.format("MambaForCausalLM", "one layer"),
        "`A_log` has two axes and is no matrix: its exponential is the decay of a state. `conv1d` has one "
        "window a channel. "
        "`in_proj` holds two parts, `x_proj` three of unlike size.",
        (
            pull(
                "AI-Hypercomputer/maxtext",
                4843,
                "a review finds the short depthwise filter orthogonalised: no dense matrix.",
            ),
            pull("allenai/OLMo-core", 606, "flattens such filters so that Muon takes them."),
        ),
    ),
    "mamba-2": Entry(
        "Mamba-2: five parts in one matrix",
        Case(
            released("Mamba2ForCausalLM", num_hidden_layers=1),
            text,
            {
                "backbone.embeddings.weight": "embedding xo sign",
                "*norm*.weight": "gain o sign",
                "*.A_log": "state o sign",
                "*.D": "gain o sign",
                "*.dt_bias": "bias o sign",
                "*.conv1d.weight": "depthwise bik sign",
                "*.conv1d.bias": "bias o sign",
                "*.in_proj.weight": "hidden oi spectral 8192 8192 1024 1024 128",
                "*.out_proj.weight": LINEAR,
                "lm_head.weight": "output oi sign",
            },
        ),
        ("*.in_proj.weight", "*.conv1d.weight"),
        TRANSFORMERS.format("Mamba2ForCausalLM", "one layer"),
        "`in_proj` makes a gate, the sequence, B, C and the time steps: 8192, 8192, 1024, 1024 and 128 rows. "
        "Three of them "
        "pass one filter together before they are parted.",
        (
            issue(
                "NVIDIA/Megatron-LM",
                2885,
                "asks for Muon with linear attention: such fused projections are the obstacle.",
            ),
            pull("NVIDIA/Megatron-LM", 5400, "leaves a projection of that kind to Adam."),
        ),
    ),
    "dit": Entry(
        "DiT: modulation by six",
        Case(
            DiT,
            lambda: (pixels(8), torch.tensor([3.0, 7.0]), torch.tensor([1, 4])),
            BIAS
            | {
                "x_embedder.weight": "input oikk spectral",
                "t_embedder.0.weight": "input oi spectral",
                "t_out.weight": LINEAR,
                "y_embedder.weight": "embedding xo sign",
                "pos_embed": "position -xo sign",
                "qkv.weight": "hidden oi spectral 16 16 16",
                "qkv.bias": "bias o sign 16 16 16",
                "proj.weight": LINEAR,
                "fc?.weight": LINEAR,
                "adaln.1.weight": "hidden oi spectral 16 16 16 16 16 16",
                "adaln.1.bias": "bias o sign 16 16 16 16 16 16",
                "adaln_last.1.weight": "hidden oi spectral 16 16",
                "adaln_last.1.bias": "bias o sign 16 16",
                "last.weight": "output oi sign",
            },
        ),
        ("adaln.1.weight", "qkv.weight", "x_embedder.weight", "last.weight"),
        "a small DiT in plain PyTorch ([generative.py](../../tests/zoo/generative.py)), built as the paper's is",
        "`adaln` makes six vectors, two shifts, two scales and two gates: six blocks. `x_embedder` and "
        "`t_embedder` are "
        "matrices of the input, although their names say embed; `y_embedder` is a table.",
        (
            issue(
                "AkihikoWatanabe/paper_notes",
                6276,
                "a paper finds that fused AdaLN and q, k, v hold Muon back on DiTs.",
            ),
            issue(
                "Chongjie-Si/AdaMuon",
                5,
                "an image transformer ends worse than with AdamW; only linear layers had AdaMuon.",
            ),
            pull("kyutai-labs/pocket-tts", 314, "orthogonalises AdaLN's chunks one by one."),
        ),
    ),
    "whisper": Entry(
        "Whisper: a stem of filters, a tied head",
        Case(
            released("WhisperForConditionalGeneration", encoder_layers=1, decoder_layers=1),
            lambda: {
                "input_features": torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0)),
                "decoder_input_ids": text()["input_ids"][:1],
            },
            BIAS
            | {
                "model.encoder.conv1.weight": "input oik spectral",
                "model.encoder.conv2.weight": "hidden oik spectral",
                "*.embed_positions.weight": "position xo sign",
                "model.decoder.embed_tokens.weight": "output oi sign",
                "*_proj.weight": LINEAR,
                "*.fc?.weight": LINEAR,
                "*norm.weight": "gain o sign",
            },
        ),
        ("model.encoder.conv?.weight", "model.decoder.embed_tokens.weight"),
        TRANSFORMERS.format("WhisperForConditionalGeneration", "one layer on each side"),
        "The stem is two filters of three axes: `conv1` reads the spectrogram, `conv2` is hidden. "
        "`embed_tokens` is the head "
        "too, under the name `proj_out`. The encoder's table of places is frozen.",
        (
            pull("pytorch/pytorch", 180561, "torch's Muon refuses filters, so that they go to AdamW."),
            pull("deepspeedai/DeepSpeed", 7641, "tells heads by `lm_head`, which this model hasn't."),
        ),
    ),
    "lora": Entry(
        "LoRA: two factors of one change",
        Case(
            Adapted,
            tokens,
            BIAS
            | {
                "embed.weight": "embedding xo sign",
                "base.weight": LINEAR,
                "lora_?.weight": LINEAR,
                "head.weight": "output oi sign",
            },
        ),
        ("lora_A.weight", "lora_B.weight"),
        PLAIN.format("others.py", "peft's LoRA"),
        "`lora_A` is 512→8 and `lora_B` 8→512: both are hidden, and each has the scale of its own fan-in and "
        "fan-out. What "
        "is frozen takes no share of the learning. `timm`'s test of the aspect ratio passes both at this width.",
        (
            pull(
                "Nerogar/OneTrainer",
                1314,
                "Muon on both factors: the flat one's updates were noise, so it went to Adam.",
            ),
        ),
    ),
}
