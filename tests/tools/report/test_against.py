"""What common heuristics get wrong, on models whose right answer is known."""

from __future__ import annotations

import pytest
import torch

import normc
from normc.errors import NormcError
from normc.tools.report.against import against, faults, heuristics
from tests.tools.report.test_explain import printed
from tests.zoo.models import CASES


def wrong(case: str, heuristic: str) -> dict[str, tuple[str, ...]]:
    plan = normc.plan(CASES[case].build(), CASES[case].inputs())
    choose = heuristics[heuristic]
    return {row.name: found for row in plan.rows if (found := faults(row, choose(row.name, row.shape)))}


def test_by_axes_orthogonalises_tables_and_turns_conv1d_upside_down() -> None:
    found = wrong("hf-gpt2", "muon-ndim")
    assert found["transformer.wte.weight"] == ("orthogonalised, but it is an output head",)
    assert found["transformer.wpe.weight"] == ("orthogonalised, but it is a position table",)
    assert found["transformer.h.0.mlp.c_fc.weight"] == ("fan-in taken for fan-out: its scale is upside down",)
    assert len(found["transformer.h.1.attn.c_attn.weight"]) == 2
    assert "transformer.h.0.attn.c_proj.weight" not in found


def test_by_names_misses_a_patch_convolution_that_is_called_an_embedding() -> None:
    name = "vit.embeddings.patch_embeddings.projection.weight"
    assert wrong("hf-vit", "muon-names")[name] == ("left to AdamW, but it is an input matrix",)
    assert name in wrong("hf-vit", "deepspeed")
    assert name not in wrong("hf-vit", "timm")


def test_by_axes_takes_state_filters_and_stacks_for_matrices() -> None:
    assert "backbone.layers.0.mixer.A_log" in wrong("mamba", "muon-ndim")
    assert "backbone.layers.0.mixer.conv1d.weight" in wrong("mamba", "muon-ndim")
    assert "a stack of 4 matrices taken for one" in wrong("experts", "muon-ndim")["down"]
    assert wrong("experts", "torch-example")["down"] == ("left to AdamW, but it is a hidden matrix",)


def test_a_plain_llama_is_right_by_names() -> None:
    assert not wrong("hf-llama", "muon-names")


def test_the_table_says_how_much_is_wrong() -> None:
    model = torch.nn.Sequential(
        torch.nn.Embedding(10, 4), torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 10, bias=False)
    )
    text = printed(against(normc.plan(model, torch.tensor([[1, 2, 1]])), ["muon-ndim", "torch-example"]), 120)
    assert text.count("2 of 3 tensors, 83.3 % of all entries, would be treated wrongly") == 2


def test_an_unknown_heuristic_is_answered_with_the_nearest() -> None:
    with pytest.raises(NormcError, match="did you mean 'deepspeed'"):
        against(normc.plan(torch.nn.Linear(3, 3), torch.randn(2, 3)), ["deep-speed"])
