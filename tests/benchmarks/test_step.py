from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.step.__main__ import main
from benchmarks.step.bars import EXPRESS, SAFETY, batched
from benchmarks.step.contest import CannotRunError, problem
from benchmarks.step.ours import compiled
from benchmarks.step.peers import found
from benchmarks.step.processes import Job, TooSlowError, alarm, cause, spawn
from benchmarks.step.quality import judge, pose, trials
from benchmarks.step.results import best
from benchmarks.step.run import contestants
from benchmarks.step.suites import SUITES


@pytest.mark.parametrize("name", list(SUITES))
def test_every_suite_orthogonalises_the_same_matrices_as_its_peers(name: str) -> None:
    given = problem(SUITES[name], "cpu", quick=True)
    chosen = trials(given)
    pose(given, chosen)
    ours = contestants(name, "cpu")[0]
    opt = compiled(
        given.model, given.example, lr=1.0, recipe="muon", compile=False,
        options={"polynomial": "polar-express", "ns_steps": 5},
    )  # fmt: skip
    opt.step()
    spectral = sum(row.norm == "spectral" for row in opt.plan.rows)
    assert spectral == len(given.matrices)
    assert ours.name == "normc"
    assert chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_good_step_is_judged_good_and_a_zero_one_bad(dtype: torch.dtype) -> None:
    given = problem(SUITES["gpt2-124m"], "cpu", quick=True)
    chosen = trials(given)
    pose(given, chosen)
    runner = batched(given, dtype)
    assert all(entry["in range"] == 0.0 and entry["error"] == 1.0 for entry in judge(runner, chosen))
    runner.step()
    assert len(chosen) == 8
    # Rounding to bf16 puts 2^-9 of a matrix's norm where its singular values are zero; the polynomials multiply that.
    noise = 2**-9 * math.prod(a for a, *_ in EXPRESS) / SAFETY if dtype == torch.bfloat16 else 0.0
    for trial, entry in zip(chosen, judge(runner, chosen), strict=True):
        share, error = entry["in range"], entry["error"]
        if trial.spectrum == "real gradient":  # most of its singular values are too small for five steps
            assert 0.1 < share < 0.5 and 0.5 < error < 0.9
        else:
            lost = noise / trial.rank**0.5 if trial.spectrum == "half rank" else 0.0
            assert share > 0.9 and error < math.hypot(0.2, lost), trial.spectrum


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(CannotRunError, match="no_such_package can't be imported"):
        found("no_such_package")


def test_the_cause_of_an_end_is_its_error_where_there_is_one() -> None:
    assert cause(["start", "what():  CUDA error: misaligned", "frame #1: handleError", "frame #2: _start"]) == (
        "what():  CUDA error: misaligned"
    )
    assert cause(["one", "two"]) == "two"
    assert cause([]) == ""


def test_the_alarm_ends_what_takes_too_long() -> None:
    with pytest.raises(TooSlowError), alarm(0.05):
        while True:
            pass


def test_a_process_that_dies_is_told_apart(tmp_path: Path) -> None:
    job = Job("first", "30m", ("nobody",), "cpu", True, 0, 1, "", 120.0)
    assert "failed" in list(spawn(job, tmp_path))[-1]


def test_the_best_of_the_rest_leaves_adamw_out() -> None:
    results: list[dict[str, Any]] = [
        {"name": "a", "kind": "peer", "times normc's": 2.0},
        {"name": "b", "kind": "bar", "times normc's": 1.5},
        {"name": "c", "kind": "scale", "times normc's": 0.1},
        {"name": "d", "kind": "peer", "skipped": "not there"},
    ]
    assert best(results) == ("b", 1.5)


@pytest.mark.slow
def test_a_quick_run_writes_numbers_and_a_plot(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    main(["--quick", "--device", "cpu", "--suite", "30m", "--only", "batched", "AdamW", "--out", str(out)])
    (result,) = json.loads(out.read_text()).values()
    medians = {one["name"]: one["median, ms"] for one in result["results"]}
    assert set(medians) == {"normc", "batched products, foreach", "AdamW, fused"}
    assert result["versions"]["torch"] == torch.__version__
    assert out.with_suffix(".png").stat().st_size > 1000


@pytest.mark.slow
def test_a_quick_run_without_rewrites_makes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "step.json"
    main(["--quick", "--device", "cpu", "--suite", "30m", "--only", "normc", "--ablate", "batch", "turns", "graph",
          "--out", str(out)])  # fmt: skip
    (result,) = json.loads(out.read_text()).values()
    (entry,) = result["ablation"]
    assert entry["rewrite"] == "batch" and entry["without / with"] > 0 and entry["predicted"]
    reasons = {one["name"]: one["skipped"] for one in result["results"] if "skipped" in one}
    assert "all decisions are the same" in reasons["normc without turns"]
    assert "cpu has no rewrite 'graph'" in reasons["normc without graph"]
    assert "without / with" in capsys.readouterr().out
