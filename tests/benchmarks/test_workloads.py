"""The judge of optimizers: its workloads build, repeat and learn; its runs resume; its score is what it says."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

import normc
from benchmarks.workloads import job as jobs
from benchmarks.workloads import report, stages, workers
from benchmarks.workloads.__main__ import main
from benchmarks.workloads.captured import measuring
from benchmarks.workloads.job import Job, Result, append, read, run, task
from benchmarks.workloads.optimizers import CONTESTANTS, divided, grid, matrices_of, refined, undecayed
from benchmarks.workloads.score import geometric_mean, ratio, reached, standard_error
from benchmarks.workloads.tokens import encode, learn
from benchmarks.workloads.workload import load, workload

WORKLOADS = load()


def job(name: str, optimizer: str = "adamw", lr: float = 1e-2, seed: int = 0) -> Job:
    return Job(name, optimizer, lr, 1.0, 0.0, seed, "quick")


def result(given: Job, *measured: tuple[int, float, float]) -> Result:
    return Result(given, measured, measured[-1][0] if measured else 0, 1.0, "a machine", "2.0", "2026-01-01")


def test_there_are_enough_of_them() -> None:
    assert len(WORKLOADS) >= 12
    with pytest.raises(ValueError, match="two workloads are called 'vit'"):
        workload("vit", "again")(WORKLOADS["vit"].make)


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_a_workload_repeats_and_learns(name: str) -> None:
    given = task(name, True, 0, "cpu")
    model, again = given.model(), given.model()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    first, second, other = given.batch(3), given.batch(3), given.batch(4)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    fresh = task.__wrapped__(name, True, 0, "cpu")
    for part in ("tuning", "held_out"):
        for ours, theirs in zip(getattr(given, part), getattr(fresh, part), strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert run(job(name), "cpu", 2).measured == run(job(name), "cpu", 2).measured
    before = measuring(given, model, given.held_out, "cpu")()
    for optimizer, lr in (("adamw", 1e-2), ("auto", 0.8)):
        assert run(job(name, optimizer, lr), "cpu", 12).final < before - 0.003, optimizer


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_a_workload_is_planned_without_fallbacks(name: str) -> None:
    given = task(name, True, 0, "cpu")
    model = given.model()
    plan = normc.plan(model, given.inputs)
    assert [row.name for row in plan if row.fallback is not None or row.role == "unused"] == []
    assert sum(row.numel for row in plan) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", [one for one in CONTESTANTS if one not in ("adamw", "auto")])
def test_every_optimizer_learns_a_little(optimizer: str) -> None:
    given = task("vit" if optimizer == "sgd" else "gpt2-text", True, 0, "cpu")
    setting = grid(CONTESTANTS[optimizer])[3]
    own = Job(
        "vit" if optimizer == "sgd" else "gpt2-text", optimizer, setting.lr, setting.rest, setting.decay, 0, "quick"
    )
    assert run(own, "cpu", 12).final < measuring(given, given.model(), given.held_out, "cpu")() - 0.05


def test_matrices_are_told_from_the_rest() -> None:
    model = task("moe-code", True, 0, "cpu").model()
    twins, rest = divided(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in rest if parameter.ndim >= 2} == {"tokens.weight", "head.weight"}
    stack = next(one for one in twins if names[id(one.whole)].endswith("mixer.gate"))
    assert len(stack.parts) == 4
    assert stack.parts[1].data_ptr() == stack.whole[1].data_ptr()
    assert matrices_of(torch.zeros(8, 3, 2, 2))[0].shape == (8, 12)


def test_byte_pairs_are_the_most_frequent_ones() -> None:
    merges = learn(b"aab aab aab cd", 258)
    assert list(merges) == [(ord("a"), ord("b")), (ord("a"), 256)]
    assert encode(b"aab cab", merges) == [257, ord(" "), ord("c"), 256]


def test_every_optimizer_gets_the_same_number_of_runs() -> None:
    for one in CONTESTANTS.values():
        settings = grid(one)
        assert len({setting.lr for setting in settings}) == 7
        assert {setting.decay for setting in settings} == {one.decay}
        for best in settings:
            three = undecayed(one, best)
            assert {setting.lr for setting in three} <= {setting.lr for setting in settings}
            assert best.lr in {setting.lr for setting in three}
            assert len(set(three)) == 3 and {setting.decay for setting in three} == {0.0}
            for better in (best, *three):
                assert len(set(refined(one, better)) - {*settings, *three}) == 2
    edge, middle = grid(CONTESTANTS["adamw"])[6], grid(CONTESTANTS["adamw"])[3]
    assert [setting.lr for setting in refined(CONTESTANTS["adamw"], edge)] == [0.048, 0.096]
    assert [setting.lr for setting in refined(CONTESTANTS["adamw"], middle)] == [0.00212, 0.00424]
    two = refined(CONTESTANTS["muon-original"], grid(CONTESTANTS["muon-original"])[3])
    assert [(setting.lr, setting.rest) for setting in two] == [(0.02, 0.05), (0.02, 0.45)]


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first = result(job("vit"), (8, 2.5, 2.25), (16, math.inf, math.inf))
    append(path, first)
    assert json.loads(path.read_text())["key"] == "vit/adamw/lr=0.01/rest=1/decay=0/seed=0/quick"
    assert read(path) == {first.job.key: first}
    with path.open("a") as file:
        file.write('{"key": "vit/ad')  # a process that was ended while it wrote
    assert read(path) == {first.job.key: first}
    second = result(job("mixer"), (8, 1.0, 1.0))
    append(path, second)
    assert read(path) == {first.job.key: first, second.job.key: second}
    assert read(tmp_path / "nothing") == {}


def made(each: Job, loss: float) -> Result:
    """A run that gets to `loss`, half of the way to it in half of the time."""
    return result(each, (10, loss + 1, loss + 1), (20, loss, loss))


def test_what_is_due_follows_from_what_is_there() -> None:
    two = {name: WORKLOADS[name] for name in ("gpt2-text", "vit")}
    results: dict[str, Result] = {}
    order: list[Job] = []
    while left := stages.due(results, two, "quick"):
        assert not {each.key for each in left} & set(results)
        for each in left:
            far = abs(math.log(each.lr / CONTESTANTS[each.optimizer].lr)) + (each.decay > 0)
            results[each.key] = made(each, 1.0 + far + 0.5 * (each.optimizer != "auto"))
        order += left
    tuning = [each for each in order if each.seed == stages.TUNING_SEED]
    others = [each for each in order if each.seed != stages.TUNING_SEED]
    assert len(tuning) == (9 + 10) * 12 == (9 + 10) * stages.RUNS
    assert len(others) == (9 + 10 + 2) * len(stages.SEEDS)  # auto's own setting too
    assert all(each.lr == CONTESTANTS[each.optimizer].lr for each in others)
    assert {each.decay for each in others if each.optimizer == "auto"} == {0.0, stages.default().decay}
    assert {each.decay for each in others if each.optimizer != "auto"} == {0.0}
    data = report.summary(results, two, "quick")
    assert data["scores"][report.TUNED]["adamw"] == {"mean": 1.0, "ahead": 2, "each": {"gpt2-text": 1.0, "vit": 1.0}}
    assert data["scores"][report.ONE]["adamw"]["ahead"] == 0


def test_the_report_says_what_was_run(tmp_path: Path) -> None:
    one = {"vit": WORKLOADS["vit"]}
    results: dict[str, Result] = {}
    while left := stages.due(results, one, "quick"):
        for each in left:
            best = 1.0 if each.optimizer == "lion" else CONTESTANTS[each.optimizer].lr
            results[each.key] = made(each, 2.0 + abs(each.lr - best))
    report.write(report.summary(results, one, "quick"), tmp_path)
    page = (tmp_path / "workloads.md").read_text()
    assert "1 workloads, size quick, on a machine; torch 2.0; 2026-01-01 to 2026-01-01." in page
    assert "| vit | 2 ± 0 (0.8) | 2 ± 0 (0.8) | 2 ± 0 (0.003) |" in page
    assert "`auto, one lr` is the recipe's own: lr 0.8, weight decay 0.1." in page
    assert "(0.0096 <)" in page
    assert json.loads((tmp_path / "workloads.json").read_text())["scores"][report.TUNED]["sgd"]["mean"] == 1.0
    assert (tmp_path / "workloads.png").stat().st_size > 0


def test_the_score_counts_steps() -> None:
    fast, slow = [(10, 3.0), (20, 2.0), (40, 1.0)], [(10, 4.0), (20, 3.0), (40, 2.0)]
    assert reached(fast, 2.5) == 20
    assert reached(fast, 0.5) is None
    assert ratio(fast, slow) == 0.5
    assert ratio(slow, fast) == 2.0
    assert ratio(fast, fast) == 1.0
    assert ratio([(10, math.inf)], slow) == 4.0  # it diverged: the peer was as good as that at its first measurement
    assert geometric_mean([0.5, 2.0, 1.0]) == pytest.approx(1.0)
    assert geometric_mean([0.25, 1.0]) == pytest.approx(0.5)
    assert standard_error([1.0, 2.0, 3.0]) == pytest.approx(3**-0.5)


def test_a_curve_is_the_mean_over_seeds_and_a_run_that_stopped_is_lost() -> None:
    runs = [result(job("vit", seed=1), (8, 4.0, 5.0), (16, 2.0, 3.0)), result(job("vit", seed=2), (8, 2.0, 3.0))]
    whole = [runs[0], result(job("vit", seed=2), (8, 2.0, 3.0), (16, 1.0, 2.0))]
    assert stages.curve(whole, 1) == [(8, 3.0), (16, 1.5)]
    assert stages.curve(whole, 2) == [(8, 4.0), (16, 2.5)]
    assert stages.curve(runs, 1) == [(8, 3.0), (16, math.inf)]


def test_a_run_ends_where_its_loss_does(monkeypatch: pytest.MonkeyPatch) -> None:
    given = dataclasses.replace(
        task("inr", True, 0, "cpu"), loss=lambda model, batch: model(batch["x"]).sum() * math.nan
    )
    monkeypatch.setattr(jobs, "task", lambda *_: given)
    found = run(job("inr"), "cpu")
    assert found.measured == ((8, math.inf, math.inf),)
    assert found.steps == 24


def test_a_job_that_ends_its_process_is_a_failed_result() -> None:
    worker = workers.started("cpu")
    worker.process.kill()
    worker.process.join()
    worker.job = job("vit")
    found = workers._taken(worker, "cpu")
    assert found.failed == "its process ended with -9"
    assert found.final == math.inf
    assert worker.job is not None


def test_a_sitting_goes_on_where_the_last_one_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    same = ["--quick", "--only", "inr", "--device", "cpu", "--results", str(path)]
    main([*same, "--list"])
    listed = capsys.readouterr().out.split()
    assert len(listed) == 9 * 7 + 3  # SGD is for images; auto's own setting
    main([*same, "--within", "0"])
    assert not path.exists()
    inr = {"inr": WORKLOADS["inr"]}
    while left := [each for each in stages.due(read(path), inr, "quick") if each.key != listed[-1]]:
        for each in left:
            append(path, made(each, 1.0))
    capsys.readouterr()
    main([*same, "--within", "60"])  # the one run that is left, then three without decay and so on
    done = read(path)
    assert all(done[key].where == "a machine" for key in listed[:-1])
    assert done[listed[-1]].where != "a machine"
    assert listed[-2] not in capsys.readouterr().out
    main([*same, "--list"])
    assert capsys.readouterr().out.split() == []
    with pytest.raises(SystemExit, match="choose among addition"):
        main(["--only", "nothing"])
    with pytest.raises(SystemExit, match="no optimizer that is confirmed"):
        main([*same[:-1], str(tmp_path / "nothing"), "--report"])
