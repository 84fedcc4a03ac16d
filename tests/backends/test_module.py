"""The generated module: readable, formatted, safe against any name, and what shows in a traceback."""

from __future__ import annotations

import linecache
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch

from normc.compiler import build
from normc.errors import NormcError
from normc.pipeline import update_of
from normc.plans.row import Block, Row
from normc.update.program.build import build_of
from normc.update.program.source import collapse, comment, literal
from tests.handmade import Small, draft, plan_of, small_rows

HOSTILE = [
    'x"]; import os #\n',
    "*/",
    '"""',
    "\\",
    "'''",
    "{0}",
    "a\rb\u2028c",
    "\U0001f600\ud800",
    "%s",
    "\x00\x1b[31m",
    "ALIASES",
]


def gpt_rows() -> list[Row]:
    """Drafts as of a GPT-2 of two layers: Conv1D matrices (in, out), fused q, k and v, a tied embedding."""
    blocks = tuple(Block(label, 1, ((i * 32, i * 32 + 32),)) for i, label in enumerate("qkv"))
    turned: dict[str, Any] = {"in_axes": (0,), "out_axes": (1,)}
    rows = [
        draft("wte.weight", (96, 32), "output", aliases=("lm_head.weight",)),
        draft("wpe.weight", (24, 32), "position"),
    ]
    for i in range(2):
        rows += [
            draft(f"h.{i}.ln_1.weight", (32,), "gain"),
            draft(f"h.{i}.attn.c_attn.weight", (32, 96), "hidden", blocks=blocks, **turned),
            draft(f"h.{i}.attn.c_proj.weight", (32, 32), "hidden", **turned),
            draft(f"h.{i}.mlp.c_fc.weight", (32, 128), "hidden", **turned),
            draft(f"h.{i}.mlp.c_fc.bias", (128,), "bias"),
            draft(f"h.{i}.mlp.c_proj.weight", (128, 32), "hidden", **turned),
        ]
    return [*rows, draft("dead", (3,), "unused")]


@pytest.mark.parametrize("recipe", ["scion", "muon", "modula"])
def test_golden_source(recipe: str, golden: object) -> None:
    source = update_of(plan_of(gpt_rows(), recipe, model="GPT2"), build_of("cpu:fp32")).text.module
    golden(f"update_{recipe}.py", source)  # type: ignore[operator]


def test_source_is_formatted_and_the_same_each_time(tmp_path: Path) -> None:
    source = update_of(plan_of(gpt_rows(), "scion"), build_of("cpu:fp32")).text.module
    assert source == update_of(plan_of(gpt_rows(), "scion"), build_of("cpu:fp32")).text.module
    file = tmp_path / "update.py"
    file.write_text(source)
    command = [sys.executable, "-m", "ruff", "format", "--line-length", "120", "--diff", "--isolated", str(file)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


def test_hostile_names_stay_data() -> None:
    names = {name: torch.nn.Parameter(torch.ones(4, 3)) for name in HOSTILE}
    blocks = (Block('"""\nimport os', 0, ((0, 2),)), Block("b", 0, ((2, 4),)))
    rows = [draft(name, (4, 3), "hidden", blocks=blocks, aliases=(name + "'",)) for name in HOSTILE]
    plan = plan_of(rows, model='"""\nraise SystemExit\n"""')
    opt = build(plan, names.items(), lr=0.1, compile=False)
    assert opt.source.isascii()
    assert [name for bucket in opt.update.buckets for name in bucket.names] == HOSTILE
    assert opt.update.aliases == {name + "'": name for name in HOSTILE}
    for parameter in names.values():
        parameter.grad = torch.randn(4, 3)
    opt.step()
    assert all(not torch.equal(parameter, torch.ones(4, 3)) for parameter in names.values())


def test_literals_hold_plain_data_only() -> None:
    assert (
        literal((1, 2.5, None, True, "a.b", torch.bfloat16, (3,)))
        == '(1, 2.5, None, True, "a.b", torch.bfloat16, (3,))'
    )
    for bad in (float("inf"), object(), [1]):
        with pytest.raises(AssertionError):
            literal(bad)
    assert comment('a\n"b"\\c') == "a??b??c"


def test_a_plan_with_bad_numbers_or_blocks_is_refused() -> None:
    from dataclasses import replace

    (row,) = plan_of([draft("w", (4, 3), "hidden")]).rows
    bad_scale = replace(row, scale=replace(row.scale, per_block=(float("nan"),)))
    gap = replace(row, blocks=(Block("a", 0, ((0, 1),)), Block("b", 0, ((2, 4),))))
    outside = replace(row, out_axes=(5,))
    for bad, words in ((bad_scale, "not finite"), (gap, "gap"), (outside, "axis 5")):
        with pytest.raises(NormcError, match=words):
            update_of(replace(plan_of([draft("w", (4, 3), "hidden")]), rows=(bad,)))
    for target in ("cpu:int4", "cuda:90", "tpu"):
        with pytest.raises(NormcError, match="known"):
            update_of(plan_of([draft("w", (4, 3), "hidden")]), build_of(target))


def test_generated_frames_show_in_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Small()
    opt = build(plan_of(small_rows(model), "scion"), model.named_parameters(), lr=0.1, compile=False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    monkeypatch.setattr(torch, "baddbmm", None)
    linecache.checkcache()
    try:
        opt.step()
    except TypeError:
        text = traceback.format_exc()
    assert f"<normc plan {opt.plan.hash[:16]}" in text
    assert "y0, y1 = run.core(core_spectral_16x32, x0, x1)" in text


def test_targets_choose_the_dtype_of_newton_schulz() -> None:
    plan = plan_of(small_rows(Small()), "scion")
    assert "POLYNOMIALS_1, dtype=torch.float16, unit=unit)" in update_of(plan, build_of("cuda:sm_90")).text.module
    assert "POLYNOMIALS_1, dtype=" not in update_of(plan, build_of("cuda:sm_75")).text.module
    assert "POLYNOMIALS_1, dtype=torch.bfloat16)" in update_of(plan, build_of("cpu:bf16")).text.module
    assert "dtype=torch.bfloat16" not in update_of(plan, build_of("cpu:fp32")).text.module


def test_names_collapse_to_what_they_share() -> None:
    assert collapse(["h.0.ln.weight", "h.1.ln.weight"]) == "h.*.ln.weight"
    assert collapse(["h.0.ln.weight", "h.1.ln.weight", "ln_f.weight"]) == "h.*.ln.weight + ln_f.weight"
    assert collapse(["alone"]) == "alone"
