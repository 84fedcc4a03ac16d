"""Models of tables: rtdl, pytorch-tabnet, tab-transformer-pytorch, pykan."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("rtdl-revisiting-models", "rtdl-num-embeddings", "pytorch-tabnet", "tab-transformer-pytorch", "pykan")
MODULES = (
    "rtdl_revisiting_models",
    "rtdl_num_embeddings",
    "pytorch_tabnet.tab_network",
    "tab_transformer_pytorch",
    "kan",
)


def _ft_transformer(draw: Draw) -> Example:
    made = library("rtdl_revisiting_models").FTTransformer(
        n_cont_features=3, cat_cardinalities=[4, 7], d_out=2, n_blocks=2, d_block=16, attention_n_heads=2,
        attention_dropout=0.1, ffn_d_hidden=24, ffn_d_hidden_multiplier=None, ffn_dropout=0.1, residual_dropout=0.0,
    )  # fmt: skip
    return of(made, torch.randn(4, 3), torch.randint(0, 4, (4, 2)))


def _linformer(draw: Draw) -> Example:
    made = library("rtdl_revisiting_models").FTTransformer(
        n_cont_features=3, cat_cardinalities=[4, 7], d_out=2, n_blocks=2, d_block=16, attention_n_heads=2,
        attention_dropout=0.1, ffn_d_hidden=24, ffn_d_hidden_multiplier=None, ffn_dropout=0.1, residual_dropout=0.0,
        linformer_kv_compression_ratio=0.5, linformer_kv_compression_sharing=draw.choice(("headwise", "key-value")),
    )  # fmt: skip
    return of(made, torch.randn(4, 3), torch.randint(0, 4, (4, 2)))


def _residual(draw: Draw) -> Example:
    made = library("rtdl_revisiting_models").ResNet(
        d_in=5, d_out=2, n_blocks=2, d_block=16, d_hidden=24, d_hidden_multiplier=None, dropout1=0.1, dropout2=0.1
    )
    return of(made, torch.randn(4, 5))


def _embedded(kind: str, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        layer = getattr(library("rtdl_num_embeddings"), kind)(**options)
        return of(nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 3))

    return build


def _pieces(draw: Draw) -> Example:
    bins = [torch.linspace(-2, 2, count) for count in (4, 6, 5)]
    layer = library("rtdl_num_embeddings").PiecewiseLinearEmbeddings(bins, 8, activation=True, version="B")
    return of(nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 3))


def _tabnet(mask: str) -> Build:
    def build(draw: Draw) -> Example:
        made = library("pytorch_tabnet.tab_network").TabNet(
            6, 3, n_steps=2, cat_idxs=[0, 3], cat_dims=[4, 5], cat_emb_dim=[2, 3], mask_type=mask,
            group_attention_matrix=torch.eye(6),
        )  # fmt: skip
        values = torch.randn(8, 6)
        values[:, [0, 3]] = torch.randint(0, 4, (8, 2)).float()
        return of(made, values)

    return build


def _tab_transformer(kind: str, **options: Any) -> Build:
    def build(draw: Draw) -> Example:
        made = getattr(library("tab_transformer_pytorch"), kind)(
            categories=(4, 7, 3), num_continuous=3, dim=16, depth=2, heads=2, dim_head=8, dim_out=2, **options
        )
        return of(made, torch.randint(0, 3, (4, 3)), torch.randn(4, 3))

    return build


def _kan(draw: Draw) -> Example:
    made = library("kan").KAN(width=[3, 4, 2], grid=3, k=3, auto_save=False, sparse_init=draw.random() < 0.3)
    return of(made, torch.rand(8, 3) * 2 - 1)


def _multiplying_kan(draw: Draw) -> Example:
    made = library("kan").KAN(width=[3, [2, 2], 2], grid=3, k=2, auto_save=False, affine_trainable=True)
    return of(made, torch.rand(8, 3) * 2 - 1)


MODELS: dict[str, Build] = {
    "ft-transformer": _ft_transformer,
    "ft-linformer": _linformer,
    "resnet": _residual,
    "linear-embeddings": _embedded("LinearEmbeddings", n_features=3, d_embedding=8),
    "periodic": _embedded("PeriodicEmbeddings", n_features=3, d_embedding=8, n_frequencies=5, lite=False),
    "periodic-lite": _embedded("PeriodicEmbeddings", n_features=3, d_embedding=8, n_frequencies=5, lite=True),
    "piecewise": _pieces,
    "tabnet": _tabnet("sparsemax"),
    "tabnet-entmax": _tabnet("entmax"),
    "tab-transformer": _tab_transformer("TabTransformer", mlp_act=nn.ReLU()),
    "tab-ft": _tab_transformer("FTTransformer"),
    "kan": _kan,
    "kan-products": _multiplying_kan,
}
