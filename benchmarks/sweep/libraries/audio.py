"""torchaudio: recognition, separation, synthesis."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("torchaudio",)
MODULES = ("torchaudio.models",)


def _conformer(draw: Draw) -> Example:
    made = library("torchaudio.models").Conformer(
        16, draw.choice((2, 4)), 32, 2, 5, use_group_norm=draw.random() < 0.5, convolution_first=draw.random() < 0.5
    )
    return of(made, torch.randn(2, 12, 16), torch.tensor([12, 9]))


def _separator(draw: Draw) -> Example:
    made = library("torchaudio.models").ConvTasNet(
        enc_num_feats=16, msk_num_feats=12, msk_num_hidden_feats=16, msk_num_layers=2, msk_num_stacks=2
    )
    return of(made, torch.randn(2, 1, 320))


def _deep_speech(draw: Draw) -> Example:
    return of(library("torchaudio.models").DeepSpeech(10, n_hidden=16, n_class=7), torch.randn(2, 1, 9, 10))


def _emformer(memory: int) -> Build:
    def build(draw: Draw) -> Example:
        made = library("torchaudio.models").Emformer(
            16, 2, 32, 2, segment_length=4, right_context_length=1, left_context_length=4, max_memory_size=memory
        )
        return of(made, torch.randn(2, 13, 16), torch.tensor([12, 9]))

    return build


def _demucs(draw: Draw) -> Example:
    made = library("torchaudio.models").HDemucs(["a", "b"], channels=8, nfft=256, depth=4, dconv_attn=2, dconv_lstm=2)
    return of(made, torch.randn(1, 2, 4096))


def _rnnt(draw: Draw) -> Example:
    made = library("torchaudio.models").emformer_rnnt_model(
        input_dim=16, encoding_dim=16, num_symbols=11, segment_length=4, right_context_length=1,
        time_reduction_input_dim=8, time_reduction_stride=2, transformer_num_heads=2, transformer_ffn_dim=32,
        transformer_num_layers=1, transformer_dropout=0.1, transformer_activation="gelu",
        transformer_left_context_length=4, transformer_max_memory_size=0, transformer_weight_init_scale_strategy=None,
        transformer_tanh_on_mem=False, symbol_embedding_dim=12, num_lstm_layers=1, lstm_layer_norm=True,
        lstm_layer_norm_epsilon=1e-5, lstm_dropout=0.1,
    )  # fmt: skip
    lengths = torch.tensor([8, 8], dtype=torch.int32), torch.tensor([4, 3], dtype=torch.int32)
    return of(made, torch.randn(2, 9, 16), lengths[0], torch.randint(1, 11, (2, 4)), lengths[1])


def _tacotron(draw: Draw) -> Example:
    made = library("torchaudio.models").Tacotron2(
        n_mels=8, n_symbol=13, symbol_embedding_dim=16, encoder_embedding_dim=16, decoder_rnn_dim=16,
        attention_rnn_dim=16, attention_hidden_dim=8, attention_location_n_filter=4, prenet_dim=8,
        postnet_embedding_dim=16,
    )  # fmt: skip
    return of(made, torch.randint(0, 13, (2, 6)), torch.tensor([6, 4]), torch.randn(2, 8, 5), torch.tensor([5, 4]))


def _wav2letter(draw: Draw) -> Example:
    return of(library("torchaudio.models").Wav2Letter(num_classes=7), torch.randn(2, 1, 8000))


def _wav2vec(kind: str, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        common: dict[str, Any] = {
            "extractor_mode": draw.choice(("group_norm", "layer_norm")),
            "extractor_conv_layer_config": [(16, 10, 5), (16, 3, 2)], "extractor_conv_bias": False,
            "encoder_embed_dim": 24, "encoder_projection_dropout": 0.1, "encoder_pos_conv_kernel": 8,
            "encoder_pos_conv_groups": 4, "encoder_num_layers": 2, "encoder_num_heads": 2,
            "encoder_attention_dropout": 0.1, "encoder_ff_interm_features": 32, "encoder_ff_interm_dropout": 0.0,
            "encoder_dropout": 0.1, "encoder_layer_norm_first": draw.random() < 0.5, "encoder_layer_drop": 0.0,
            "aux_num_out": 9,
        }  # fmt: skip
        return of(getattr(library("torchaudio.models"), kind)(**common, **options), torch.randn(2, 800))

    return build


def _wavernn(draw: Draw) -> Example:
    made = library("torchaudio.models").WaveRNN(
        [2, 2], 16, 4, n_res_block=2, n_rnn=16, n_fc=16, n_freq=8, n_hidden=8, n_output=8
    )
    return of(made, torch.randn(2, 1, 16), torch.randn(2, 1, 8, 8))


MODELS: dict[str, Build] = {
    "conformer": _conformer,
    "conv-tasnet": _separator,
    "deep-speech": _deep_speech,
    "emformer": _emformer(0),
    "emformer-memory": _emformer(3),
    "hdemucs": _demucs,
    "rnnt": _rnnt,
    "tacotron2": _tacotron,
    "wav2letter": _wav2letter,
    "wav2vec2": _wav2vec("wav2vec2_model"),
    "wavlm": _wav2vec("wavlm_model", encoder_num_buckets=16, encoder_max_distance=32),
    "wavernn": _wavernn,
}
