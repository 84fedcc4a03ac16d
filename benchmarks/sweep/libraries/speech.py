"""speechbrain and asteroid: recognition of speech and speakers, separation, synthesis."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("speechbrain", "asteroid")
MODULES = ("speechbrain", "asteroid.models")


def _lobe(file: str, kind: str, shape: tuple[int, ...], **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        return of(getattr(library(f"speechbrain.lobes.models.{file}"), kind)(**options), torch.randn(shape))

    return build


def _layer(file: str, kind: str, shape: tuple[int, ...], **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        return of(getattr(library(f"speechbrain.nnet.{file}"), kind)(**options), torch.randn(shape))

    return build


def _recogniser(attention: str, encoder: str) -> Build:
    """speechbrain's transformer for speech; source features and target tokens."""

    def build(draw: Draw) -> Example:
        made = library("speechbrain.lobes.models.transformer.TransformerASR").TransformerASR(
            tgt_vocab=13, input_size=20, d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=1, d_ffn=24,
            attention_type=attention, encoder_module=encoder, normalize_before=True, causal=False,
        )  # fmt: skip
        return of(made, torch.randn(2, 36, 20), torch.randint(1, 13, (2, 5)), torch.tensor([1.0, 0.8]))

    return build


def _language_model(draw: Draw) -> Example:
    made = library("speechbrain.lobes.models.transformer.TransformerLM").TransformerLM(
        vocab=17, d_model=16, nhead=2, num_encoder_layers=2, d_ffn=24
    )
    return of(made, torch.randint(1, 17, (2, 7)))


def _separator(kind: str, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        return of(getattr(library("asteroid.models"), kind)(n_src=2, **options), torch.randn(2, 1, 800))

    return build


MODELS: dict[str, Build] = {
    "ecapa": _lobe("ECAPA_TDNN", "ECAPA_TDNN", (2, 20, 8), input_size=8, channels=[16, 16, 16, 16, 48],
                   attention_channels=8, res2net_scale=4, se_channels=8, lin_neurons=12),
    "xvector": _lobe("Xvector", "Xvector", (2, 20, 8), in_channels=8, tdnn_channels=[16, 16, 16, 16, 24],
                     lin_neurons=12),
    "crdnn": _lobe("CRDNN", "CRDNN", (2, 12, 16), input_size=16, cnn_blocks=1, cnn_channels=[8], rnn_layers=1,
                   rnn_neurons=12, dnn_blocks=1, dnn_neurons=12),
    "contextnet": _lobe("ContextNet", "ContextNet", (2, 16, 8), input_shape=(2, 16, 8), out_channels=16),
    "resnet": _lobe("ResNet", "ResNet", (2, 32, 16), input_size=16, channels=[8, 8, 16, 16],
                    block_sizes=[1, 1, 1, 1], lin_neurons=12),
    "hifigan": _lobe("HifiGAN", "HifiganGenerator", (2, 8, 6), in_channels=8, out_channels=1, resblock_type="1",
                     resblock_dilation_sizes=[[1, 3, 5]], resblock_kernel_sizes=[3], upsample_kernel_sizes=[4, 4],
                     upsample_initial_channel=16, upsample_factors=[2, 2]),
    "rnnlm": lambda draw: of(
        library("speechbrain.lobes.models.RNNLM").RNNLM(
            output_neurons=17, embedding_dim=8, rnn_neurons=12, rnn_layers=1, dnn_neurons=12
        ),
        torch.randint(0, 17, (2, 7)),
    ),
    "asr-transformer": _recogniser("regularMHA", "transformer"),
    "asr-conformer": _recogniser("RelPosMHAXL", "conformer"),
    "asr-branchformer": _recogniser("RelPosMHAXL", "branchformer"),
    "asr-hyper": _recogniser("hypermixing", "conformer"),
    "language-model": _language_model,
    "ligru": _layer("RNN", "LiGRU", (2, 9, 8), input_shape=(2, 9, 8), hidden_size=12, num_layers=2, bidirectional=True),
    "quasi-rnn": _layer("RNN", "QuasiRNN", (2, 9, 8), input_shape=(2, 9, 8), hidden_size=12, num_layers=1,
                        bidirectional=False),
    "sinc": _layer("CNN", "SincConv", (2, 400), input_shape=(2, 400), out_channels=8, kernel_size=11),
    "gabor": _layer("CNN", "GaborConv1d", (2, 400), out_channels=8, kernel_size=11, stride=2, input_shape=(2, 400)),
    "quaternion": _layer("quaternion_networks.q_linear", "QLinear", (2, 9, 8), n_neurons=4, input_shape=(2, 9, 8)),
    "complex": _layer("complex_networks.c_linear", "CLinear", (2, 9, 8), n_neurons=4, input_shape=(2, 9, 8)),
    "conv-tasnet": _separator("ConvTasNet", n_blocks=2, n_repeats=1, bn_chan=12, hid_chan=16, skip_chan=12,
                              n_filters=16, kernel_size=16),
    "dprnn": _separator("DPRNNTasNet", n_repeats=1, bn_chan=12, hid_size=8, n_filters=16, kernel_size=16,
                        chunk_size=10),
    "dptnet": _separator("DPTNet", n_repeats=1, n_heads=2, ff_hid=16, n_filters=16, kernel_size=16, chunk_size=10),
    "sudormrf": _separator("SuDORMRFNet", bn_chan=12, num_blocks=2, upsampling_depth=2, n_filters=16, kernel_size=16),
    "sudormrf-improved": _separator("SuDORMRFImprovedNet", bn_chan=12, num_blocks=2, upsampling_depth=2, n_filters=16,
                                    kernel_size=16),
    "lstm-tasnet": _separator("LSTMTasNet", n_layers=2, hid_size=8, n_filters=16, kernel_size=16),
}  # fmt: skip
