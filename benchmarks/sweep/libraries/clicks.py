"""torch-rechub: ranking, matching and several tasks at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("torch-rechub",)
MODULES = ("torch_rechub.models.ranking", "torch_rechub.models.matching", "torch_rechub.models.multi_task")
_ROWS = 6
_MLP = {"dims": [16, 8], "dropout": 0.1, "activation": "relu"}


class Features:
    """Sparse and dense features, histories, and values of all of them by name."""

    def __init__(self, width: int) -> None:
        home = library("torch_rechub.basic.features")
        self.sparse = [home.SparseFeature(f"s{i}", 11 + i, embed_dim=width) for i in range(3)]
        self.dense = [home.DenseFeature(f"d{i}") for i in range(2)]
        self.item = home.SparseFeature("item", 13, embed_dim=width)
        self.history = home.SequenceFeature("history", 13, embed_dim=width, pooling="concat", shared_with="item")
        self.mean = home.SequenceFeature("history", 13, embed_dim=width, pooling="mean", shared_with="item")
        self.negative = home.SequenceFeature("negative", 13, embed_dim=width, pooling="concat", shared_with="item")
        self.values: dict[str, Tensor] = {f"s{i}": torch.randint(1, 11, (_ROWS,)) for i in range(3)}
        self.values |= {f"d{i}": torch.rand(_ROWS) for i in range(2)} | {"item": torch.randint(1, 13, (_ROWS,))}
        self.values |= {name: torch.randint(1, 13, (_ROWS, 5)) for name in ("history", "negative")}


def _model(group: str, kind: str, arguments: Any) -> Build:
    """`arguments` gives the keyword arguments of the model from its features."""

    def build(draw: Draw) -> Example:
        features = Features(draw.choice((4, 8)))
        made = getattr(library(f"torch_rechub.models.{group}"), kind)(**arguments(features))
        return of(made, features.values)

    return build


def _tasks(f: Features) -> dict[str, Any]:
    return {"features": f.sparse + f.dense, "task_types": ["classification", "regression"],
            "tower_params_list": [{"dims": [8]}, {"dims": [8]}]}  # fmt: skip


MODELS: dict[str, Build] = {
    "autoint": _model("ranking", "AutoInt", lambda f: {"sparse_features": f.sparse, "dense_features": f.dense,
                                                       "num_layers": 2, "num_heads": 2, "mlp_params": dict(_MLP)}),
    "bst": _model("ranking", "BST", lambda f: {"features": f.sparse, "history_features": [f.history],
                                               "target_features": [f.item], "mlp_params": dict(_MLP), "nhead": 2}),
    "dcn": _model("ranking", "DCN", lambda f: {"features": f.sparse + f.dense, "n_cross_layers": 2,
                                               "mlp_params": dict(_MLP)}),
    "dcn-v2": _model("ranking", "DCNv2", lambda f: {"features": f.sparse + f.dense, "n_cross_layers": 2, "low_rank": 4,
                                                    "mlp_params": dict(_MLP), "num_experts": 3}),
    "edcn": _model("ranking", "EDCN", lambda f: {"features": f.sparse, "n_cross_layers": 2, "mlp_params": dict(_MLP)}),
    "deepfm": _model("ranking", "DeepFM", lambda f: {"deep_features": f.sparse + f.dense, "fm_features": f.sparse,
                                                     "mlp_params": dict(_MLP)}),
    "fibinet": _model("ranking", "FiBiNet", lambda f: {"features": f.sparse, "mlp_params": dict(_MLP)}),
    "widedeep": _model("ranking", "WideDeep", lambda f: {"wide_features": f.sparse, "deep_features": f.sparse + f.dense,
                                                         "mlp_params": dict(_MLP)}),
    "din": _model("ranking", "DIN", lambda f: {"features": f.sparse, "history_features": [f.history],
                                               "target_features": [f.item], "mlp_params": {"dims": [16, 8]},
                                               "attention_mlp_params": {"dims": [8]}}),
    "dssm": _model("matching", "DSSM", lambda f: {"user_features": f.sparse, "item_features": [f.item],
                                                  "user_params": {"dims": [16, 8]}, "item_params": {"dims": [16, 8]}}),
    "gru4rec": _model("matching", "GRU4Rec", lambda f: {"user_features": f.sparse, "history_features": [f.history],
                                                        "item_features": [f.item], "neg_item_feature": [f.negative],
                                                        "user_params": {"dims": [16, f.item.embed_dim]}}),
    "mind": _model("matching", "MIND", lambda f: {"user_features": f.sparse, "history_features": [f.history],
                                                  "item_features": [f.item], "neg_item_feature": [f.negative],
                                                  "max_length": 5, "interest_num": 2}),
    "comirec-sa": _model("matching", "ComirecSA", lambda f: {"user_features": f.sparse, "history_features": [f.history],
                                                             "item_features": [f.item],
                                                             "neg_item_feature": [f.negative], "interest_num": 2}),
    "youtube": _model("matching", "YoutubeDNN", lambda f: {"user_features": [*f.sparse, f.mean],
                                                           "item_features": [f.item], "neg_item_feature": [f.negative],
                                                           "user_params": {"dims": [16, f.item.embed_dim]}}),
    "shared": _model("multi_task", "SharedBottom", lambda f: _tasks(f) | {"bottom_params": dict(_MLP)}),
    "mmoe": _model("multi_task", "MMOE", lambda f: _tasks(f) | {"n_expert": 3, "expert_params": {"dims": [12]}}),
    "ple": _model("multi_task", "PLE", lambda f: _tasks(f) | {"n_level": 1, "n_expert_specific": 2,
                                                              "n_expert_shared": 1, "expert_params": {"dims": [12]}}),
    "aitm": _model("multi_task", "AITM", lambda f: {"features": f.sparse, "n_task": 2, "bottom_params": {"dims": [16]},
                                                    "tower_params_list": [{"dims": [8]}, {"dims": [8]}]}),
}  # fmt: skip
