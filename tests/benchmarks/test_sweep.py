"""The sweep's own logic: what its judge expects, that it sees wrong rows, and that a hung model ends alone."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import normc
from benchmarks.sweep import report
from benchmarks.sweep.oracle import judge
from benchmarks.sweep.parts import Sizes, promised
from benchmarks.sweep.workers import Outcome, spread
from normc.plans.plan import NormPlan
from normc.plans.row import Block


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.conv = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(self.embed(ids))).chunk(3, -1)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.head(self.conv(x.transpose(1, 2)).transpose(1, 2))
        return out


def planned() -> tuple[Net, NormPlan, set[int]]:
    net = Net()
    plan = normc.plan(net, torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]))
    return net, plan, {id(module) for module in net.modules()}


def test_the_judge_agrees_with_a_right_plan() -> None:
    verdicts = list(judge(*planned()))
    assert [verdict for verdict in verdicts if not verdict.agrees] == []
    counted = Counter(verdict.about for verdict in verdicts)
    assert counted["axes"] == 4
    assert counted["role"] == 9
    assert counted["blocks"] == 3
    assert counted["norm"] == 9


def test_the_judge_sees_wrong_axes_roles_and_blocks() -> None:
    net, plan, called = planned()
    turned = replace(plan["qkv.weight"], in_axes=(0,), out_axes=(1,), blocks=(), role="gain")
    lost = replace(plan["head.weight"], role="unused")
    rows = tuple({"qkv.weight": turned, "head.weight": lost}.get(row.name, row) for row in plan.rows)
    wrong = {(v.row, v.about) for v in judge(net, replace(plan, rows=rows), called) if not v.agrees}
    assert wrong >= {("qkv.weight", "axes"), ("qkv.weight", "role"), ("head.weight", "reach")}


def test_the_judge_asks_for_the_right_sizes_and_norm() -> None:
    net, plan, called = planned()
    row = plan["qkv.weight"]
    cut = replace(row, blocks=tuple(Block(str(at), 0, ((at, to),)) for at, to in ((0, 4), (4, 8), (8, 16), (16, 24))))
    other = replace(plan["head.weight"], norm="sign")
    rows = tuple({"qkv.weight": cut, "head.weight": other}.get(row.name, row) for row in plan.rows)
    wrong = [v for v in judge(net, replace(plan, rows=rows), called) if not v.agrees]
    found = {(v.row, v.about) for v in wrong}
    assert found == {("qkv.weight", "blocks"), ("head.weight", "norm")}
    assert ("3 x 8", "4 4 8 8") in {(v.expected.split(": ")[1], v.found) for v in wrong}


def test_the_judge_believes_autograd() -> None:
    net, plan, called = planned()
    lost = replace(plan["head.weight"], role="unused")
    rows = tuple(lost if row.name == "head.weight" else row for row in plan.rows)
    names = frozenset(row.name for row in plan.rows)
    for found, wrong in ((names, [("head.weight", "autograd: reached")]), (names - {"head.weight"}, [])):
        verdicts = judge(net, replace(plan, rows=rows), called, found)
        assert [(v.row, v.expected) for v in verdicts if not v.agrees] == wrong


class Grouped(nn.Module):
    """Four query heads, two of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.qkv_proj = 4, 2, nn.Linear(16, 32)


def test_what_is_promised_of_blocks() -> None:
    def sizes(module: nn.Module, name: str, full: str, shape: tuple[int, ...]) -> Sizes | None:
        row = replace(planned()[1]["qkv.weight"], shape=shape)
        promise = promised(module, name, full, row, {"attn": grouped})
        return promise.sizes[0] if promise is not None else None

    grouped, lstm, attention = Grouped(), nn.LSTM(5, 6), nn.MultiheadAttention(8, 2)
    assert sizes(lstm, "weight_hh_l0", "r.weight_hh_l0", (24, 6)) == (6, 6, 6, 6)
    assert sizes(nn.GRUCell(5, 6), "weight_ih", "r.weight_ih", (18, 5)) == (6, 6, 6)
    assert sizes(nn.RNN(5, 6), "weight_ih_l0", "r.weight_ih_l0", (6, 5)) == ()
    assert sizes(attention, "in_proj_bias", "a.in_proj_bias", (24,)) == (8, 8, 8)
    assert sizes(nn.Conv2d(8, 12, 3, groups=4), "weight", "c.weight", (12, 2, 3, 3)) == (3, 3, 3, 3)
    assert sizes(nn.Conv2d(8, 8, 3, groups=8), "weight", "c.weight", (8, 1, 3, 3)) is None
    assert sizes(grouped.qkv_proj, "weight", "attn.qkv_proj.weight", (32, 16)) == (16, 8, 8)
    assert sizes(nn.Linear(16, 24), "weight", "attn.gate_up_proj.weight", (24, 16)) == (12, 12)
    assert sizes(nn.Conv2d(16, 48, 1), "weight", "conv.to_qkv.weight", (48, 16, 1, 1)) == (16, 16, 16)
    assert sizes(nn.Linear(16, 16), "weight", "attn.out.weight", (16, 16)) is None


def sleepy(name: str) -> Outcome:
    time.sleep(60 if name == "slow" else 0)
    if name == "dies":
        raise SystemExit(1)
    return {"status": "planned"}


def test_a_model_that_hangs_or_dies_ends_alone() -> None:
    found = {name: outcome for name, outcome, _ in spread(["slow", "quick", "dies"], sleepy, 2, 1.0, 60.0)}
    assert found == {"slow": None, "quick": {"status": "planned"}, "dies": None}


def test_the_report_counts_and_names(tmp_path: Path) -> None:
    machine = report.note(tmp_path, "timm", "1.0", 3)
    common = {"machine": machine, "wall": 1.0}
    row = {"status": "planned", "seconds": 0.5, "entries": 8, "rows": 4, "unreached": 1, "blocked": 0,
           "size": "default", "roles": {"hidden": 4}, "agreed": {"axes": 3},
           "fallbacks": {"no rule for aten.odd": [1, "w"]},
           "disagreed": [["role", "token", "bias", 1, "cls"]]}  # fmt: skip
    lines = [{"name": "a", **common, **row}, {"name": "b", **common, "status": "failed", "error": "NormcError: no"}]
    (tmp_path / "timm.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report.write(tmp_path)
    found = json.loads((tmp_path / "sweep.json").read_text())["timm"]
    assert (found["tried"], found["total"], found["rows"]) == (2, 3, 4)
    assert found["disagreed"] == [["role", "token", "bias", 1, 1, "a: cls"]]
    page = (tmp_path / "sweep.md").read_text()
    assert "| the judge agrees | 3 of 4 opinions |" in page
    assert "| b | NormcError: no |" in page
    assert "| inferred | 2 of 3 reached |" in page
