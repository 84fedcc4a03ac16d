"""Heads as blocks, where they are asked for: q, k and v by head, each with fans of its own; nothing else changes."""

from __future__ import annotations

import pytest

import normc
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from tests.zoo.models import CASES

# Query, key or value matrix: its parts' labels without heads, heads of each, width of a head.
EXPECTED: dict[tuple[str, str], tuple[tuple[str, ...], tuple[int, ...], int]] = {
    ("hf-gpt2", "transformer.h.0.attn.c_attn.weight"): (("q", "k", "v"), (4, 4, 4), 16),
    ("gpt-neox", "gpt_neox.layers.1.attention.query_key_value.weight"): (("q", "k", "v"), (4, 4, 4), 16),
    ("phi3", "model.layers.0.self_attn.qkv_proj.weight"): (("q", "k", "v"), (4, 2, 2), 16),
    ("hf-llama", "model.layers.0.self_attn.q_proj.weight"): (("",), (4,), 16),
    ("hf-llama", "model.layers.0.self_attn.k_proj.weight"): (("",), (2,), 16),
    ("grouped-rotary", "qkv.weight"): (("q", "k", "v"), (4, 2, 2), 8),
    ("cross-attention", "attn.in_proj_weight"): (("q", "k", "v"), (4, 4, 4), 8),
}


def planned(case: str, heads: bool) -> NormPlan:
    """The plan of a model of the zoo."""
    return normc.plan(CASES[case].build(), CASES[case].inputs(), heads=heads)


@pytest.mark.parametrize(("case", "name"), EXPECTED)
def test_every_head_is_a_block(case: str, name: str) -> None:
    parts, counts, width = EXPECTED[case, name]
    row = planned(case, heads=True)[name]
    labels = [f"{part} head {i}".strip() for part, count in zip(parts, counts, strict=True) for i in range(count)]
    assert [block.label for block in row.blocks] == labels
    assert {block.size for block in row.blocks} == {width}
    covered = sorted(entry for block in row.blocks for span in block.spans for entry in range(*span))
    assert covered == list(range(row.shape[row.out_axes[0]]))
    assert set(row.block_fans) == {(width, row.fan_in)}


@pytest.mark.parametrize("case", sorted({case for case, _ in EXPECTED}))
def test_only_queries_keys_and_values_and_their_biases_change(case: str) -> None:
    before, after = planned(case, heads=False), planned(case, heads=True)
    asked = {name.removesuffix("weight") for known, name in EXPECTED if known == case}

    def decided(row: Row) -> tuple[object, ...]:
        return row.role, row.norm, row.fan_in, row.fan_out, row.in_axes, row.out_axes

    for old, new in zip(before.rows, after.rows, strict=True):
        assert decided(old) == decided(new)
        changed = old.blocks != new.blocks
        if any(old.name.startswith(stem) for stem in asked):
            assert changed, old.name
        if changed:
            assert len(new.blocks) > len(old.blocks) and "head" in new.blocks[0].label


def test_the_command_line_takes_heads(capsys: pytest.CaptureFixture[str]) -> None:
    from normc.cli import main

    assert main(["plan", "hf:gpt2", "--set", "n_layer=1", "--heads", "--width", "100"]) == 0
    assert "36 × 64" in capsys.readouterr().out
