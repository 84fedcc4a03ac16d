"""What a choice of `auto` is worth: each is really undone, what is due, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.workloads import ablation
from benchmarks.workloads.ablation import SEEDS, VARIANTS, WHOLE, differs, jobs_of, main, run
from benchmarks.workloads.job import Job, Result, append, read

# A workload that a choice changes; tables that are tied, and positions, are in gpt2-text.
SHOWING = {"kernels=slices": "convnet", "embedding_mass=1": "recommender"}


def made(job: Job, losses: tuple[float, ...]) -> Result:
    rows = tuple((8 * (place + 1), loss, loss) for place, loss in enumerate(losses))
    return Result(job, rows, rows[-1][0], 1.0, "a machine", "2.0", "2026-01-01")


@pytest.mark.parametrize("variant", [one for one in VARIANTS if one != WHOLE])
def test_a_choice_is_undone(variant: str) -> None:
    workload = SHOWING.get(variant, "gpt2-text")
    assert differs(workload, variant)
    whole, undone = (run(jobs_of(workload, name, "quick")[0], "cpu", 3) for name in (WHOLE, variant))
    assert whole.final != undone.final


def test_a_choice_that_changes_no_row_is_not_run() -> None:
    assert differs("inr", WHOLE)
    assert not differs("inr", "tied=sign")
    due = {(job.optimizer, job.seed) for job in ablation.due({}, "quick", "inr")}
    assert {seed for _, seed in due} == set(SEEDS)
    assert ("tied=sign", SEEDS[0]) not in due and ("weight_decay=0", SEEDS[0]) in due


def test_a_sitting_goes_on_and_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    same = ["--quick", "--only", "inr", "--device", "cpu", "--results", str(path)]
    with pytest.raises(SystemExit, match="no variant that has run beside auto"):
        main([*same, "--report"])
    *before, last = ablation.due({}, "quick", "inr")
    for job in before:
        append(path, made(job, (2.0, 1.0) if job.optimizer == "weight_decay=0" else (1.0, 0.5)))
    main([*same, "--list"])
    assert capsys.readouterr().out.split() == [last.key]
    main([*same, "--within", "60"])
    assert read(path)[last.key].where != "a machine"
    append(path, made(last, (1.0, 0.5)))
    main([*same, "--report"])
    variants = json.loads((tmp_path / "ablation.json").read_text())["variants"]
    assert variants["weight_decay=0"] == {"mean": 0.5, "each": {"inr": 0.5}}
    assert variants["nesterov=false"] == {"mean": 1.0, "each": {"inr": 1.0}}
    assert "tied=sign" not in variants
    page = (tmp_path / "evidence.md").read_text()
    assert "| `weight_decay=0` | 0.50 | 1 of 1 | inr 0.50 | inr 0.50 |" in page
    main([*same, "--report"])
    assert (tmp_path / "evidence.md").read_text() == page
    with pytest.raises(SystemExit, match="choose among addition"):
        main(["--only", "nothing"])
