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
from benchmarks.sweep.workers import Outcome, spread
from normc.plans.plan import NormPlan


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
    assert counted["blocks"] == 1


def test_the_judge_sees_wrong_axes_roles_and_blocks() -> None:
    net, plan, called = planned()
    turned = replace(plan["qkv.weight"], in_axes=(0,), out_axes=(1,), blocks=(), role="gain")
    lost = replace(plan["head.weight"], role="unused")
    rows = tuple({"qkv.weight": turned, "head.weight": lost}.get(row.name, row) for row in plan.rows)
    wrong = {(v.row, v.about) for v in judge(net, replace(plan, rows=rows), called) if not v.agrees}
    assert wrong >= {("qkv.weight", "axes"), ("qkv.weight", "role"), ("head.weight", "reach")}


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
