"""deepctr-torch: models of clicks, on sparse and dense features and on histories."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.sweep.libraries.example import Build, Draw, Example, library, of

PACKAGES = ("deepctr-torch",)
MODULES = ("deepctr_torch.models", "deepctr_torch.inputs")
_ROWS = 5
_SMALL = {"dnn_hidden_units": (16, 12)}


def _features(draw: Draw) -> tuple[list[Any], torch.Tensor]:
    """Three sparse features and two dense ones, and values of them."""
    inputs = library("deepctr_torch.inputs")
    width = draw.choice((4, 8))
    columns = [inputs.SparseFeat(f"s{i}", 11 + i, embedding_dim=width) for i in range(3)]
    columns += [inputs.DenseFeat(f"d{i}", 1) for i in range(2)]
    values = torch.cat([torch.randint(0, 11, (_ROWS, 3)).float(), torch.rand(_ROWS, 2)], 1)
    return columns, values


def _two_sided(kind: str, **options: Any) -> Build:
    """A model of linear and deep features."""

    def build(draw: Draw) -> Example:
        columns, values = _features(draw)
        return of(getattr(library("deepctr_torch.models"), kind)(columns, columns, **options), values)

    return build


def _sparse(kind: str, **options: Any) -> Build:
    """The same of sparse features alone."""

    def build(draw: Draw) -> Example:
        columns, values = _features(draw)
        sparse = columns[:3]
        return of(getattr(library("deepctr_torch.models"), kind)(sparse, sparse, **options), values[:, :3])

    return build


def _deep(kind: str, **options: Any) -> Build:
    """A model of deep features alone."""

    def build(draw: Draw) -> Example:
        columns, values = _features(draw)
        return of(getattr(library("deepctr_torch.models"), kind)(columns, **options), values)

    return build


def _history(kind: str, **options: Any) -> Build:
    """A model that looks at what a user chose before."""

    def build(draw: Draw) -> Example:
        inputs = library("deepctr_torch.inputs")
        item = inputs.SparseFeat("item", 13, embedding_dim=8)
        past = inputs.VarLenSparseFeat(
            inputs.SparseFeat("hist_item", 13, embedding_dim=8, embedding_name="item"), maxlen=4, length_name="length"
        )
        columns = [inputs.SparseFeat("user", 11, embedding_dim=8), item, inputs.DenseFeat("score", 1), past]
        model = getattr(library("deepctr_torch.models"), kind)(columns, ["item"], **options)
        places = dict(model.feature_index)
        values = torch.ones(_ROWS, max(stop for _, stop in places.values()))
        for name, high in (("user", 11), ("item", 13), ("hist_item", 13)):
            start, stop = places[name]
            values[:, start:stop] = torch.randint(1, high, (_ROWS, stop - start)).float()
        values[:, places["length"][0]] = torch.tensor([4.0, 2.0, 3.0, 4.0, 1.0])
        return of(model, values)

    return build


MODELS: dict[str, Build] = {
    "afm": _sparse("AFM"),
    "afn": _two_sided("AFN", ltl_hidden_size=16, afn_dnn_hidden_units=(16, 12)),
    "autoint": _two_sided("AutoInt", att_layer_num=2, **_SMALL),
    "ccpm": _sparse("CCPM", conv_kernel_width=(3, 2), dnn_hidden_units=(12,)),
    "dcn": _two_sided("DCN", **_SMALL),
    "dcn-matrix": _two_sided("DCN", cross_parameterization="matrix", **_SMALL),
    "dcn-mix": _two_sided("DCNMix", low_rank=4, num_experts=3, **_SMALL),
    "deepfm": _two_sided("DeepFM", dnn_use_bn=True, **_SMALL),
    "difm": _two_sided("DIFM", **_SMALL),
    "fibinet": _two_sided("FiBiNET", **_SMALL),
    "fibinet-each": _two_sided("FiBiNET", bilinear_type="each", **_SMALL),
    "fibinet-all": _two_sided("FiBiNET", bilinear_type="all", **_SMALL),
    "ifm": _two_sided("IFM", **_SMALL),
    "nfm": _two_sided("NFM", **_SMALL),
    "onn": _two_sided("ONN", **_SMALL),
    "wdl": _two_sided("WDL", dnn_activation="prelu", **_SMALL),
    "xdeepfm": _two_sided("xDeepFM", cin_layer_size=(8, 6), **_SMALL),
    "mlr": _deep("MLR"),
    "pnn": _deep("PNN", **_SMALL),
    "pnn-matrix": _deep("PNN", use_outter=True, kernel_type="mat", **_SMALL),
    "pnn-vector": _deep("PNN", use_outter=True, kernel_type="vec", **_SMALL),
    "pnn-number": _deep("PNN", use_outter=True, kernel_type="num", **_SMALL),
    "esmm": _deep("ESMM", tower_dnn_hidden_units=(12,)),
    "mmoe": _deep("MMOE", expert_dnn_hidden_units=(16, 12), gate_dnn_hidden_units=(8,), tower_dnn_hidden_units=(8,)),
    "ple": _deep("PLE", expert_dnn_hidden_units=(16, 12), gate_dnn_hidden_units=(8,), tower_dnn_hidden_units=(8,)),
    "shared": _deep("SharedBottom", bottom_dnn_hidden_units=(16, 12), tower_dnn_hidden_units=(8,)),
    "din": _history("DIN", att_hidden_size=(8, 6), **_SMALL),
    "dien": _history("DIEN", att_hidden_units=(8, 6), **_SMALL),
    "dien-augru": _history("DIEN", gru_type="AUGRU", att_hidden_units=(8, 6), **_SMALL),
}
