"""Models trained to the end at many sizes: the sizes, the parameterisations, what is due, and what the report says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import normc
from benchmarks.transfer import contestants as parameterisations
from benchmarks.transfer import plots, report
from benchmarks.transfer.__main__ import main
from benchmarks.transfer.contestants import CONTESTANTS, Multiplied
from benchmarks.transfer.due import due, job, rates, run
from benchmarks.transfer.sizes import HEAD, SIZES, Size, task
from benchmarks.workloads.captured import measuring
from benchmarks.workloads.families.llama import Llama, SwiGlu
from benchmarks.workloads.job import Job, Result, append, read
from benchmarks.workloads.tokens import corpus
from benchmarks.workloads.workers import run_all

QUICK = SIZES["quick"]


def llama(width: int, depth: int) -> Llama:
    """From one seed."""
    torch.manual_seed(0)
    return Llama(32, width, [SwiGlu(width, width * 8 // 3) for _ in range(depth)], HEAD)


def made(each: Job, *measured: tuple[int, float]) -> Result:
    """A run with the same loss in both held-out sets."""
    return Result(each, tuple((step, loss, loss) for step, loss in measured), 12, 1.0, "a machine", "2.0", "2026-01-01")


def test_the_sizes_are_those_of_the_question() -> None:
    sizes = SIZES["full"].all()
    assert len(sizes) == len(set(sizes)) == 13
    assert {size.width for size in sizes} == {64, 128, 256, 512, 1024}
    assert {size.depth for size in sizes} == {2, 4, 8, 16, 24}
    assert {size.batch for size in sizes} == {16, 32, 64, 128, 256}
    assert all(Size.of(size.label) == size and size.width % HEAD == 0 for size in sizes)


def test_a_batch_is_cut_from_the_text_and_the_same_every_time() -> None:
    given = task("32x1x4", True, 0, "cpu")
    ids = given.batch(3)["ids"]
    assert ids.shape == (4, 16)
    assert torch.equal(given.batch(3)["next"][:, :-1], ids[:, 1:])
    assert torch.equal(ids, task.__wrapped__("32x1x4", True, 0, "cpu").batch(3)["ids"])
    assert not torch.equal(ids, given.batch(4)["ids"])
    text = corpus("code", True).train.long()
    assert all(bool((text.unfold(0, 16, 1) == row).all(1).any()) for row in ids)


@pytest.mark.parametrize("change", ["standard", "mup", "completep"])
def test_parameterisations_agree_where_they_were_tuned(change: str) -> None:
    plain, changed = llama(256, 4), llama(256, 4)
    getattr(parameterisations, change)(changed)
    ids = torch.arange(12).reshape(1, 12)
    assert torch.equal(plain(ids), changed(ids))


def test_parameterisations_follow_width_and_depth() -> None:
    plain, standard, mup, completep = (llama(64, 2) for _ in range(4))
    parameterisations.standard(standard)
    parameterisations.mup(mup)
    parameterisations.completep(completep)
    for model in (standard, mup):
        assert torch.equal(model.tokens.weight, plain.tokens.weight)
        for name, parameter in plain.blocks.named_parameters():
            factor = 2.0 if parameter.ndim == 2 else 1.0
            assert torch.equal(model.blocks.get_parameter(name), factor * parameter), name
    assert torch.equal(standard.head.weight, 2 * plain.head.weight)
    ids = torch.arange(12).reshape(1, 12)
    assert isinstance(mup.head, Multiplied)
    logits = mup(ids)
    mup.head = mup.head.layer  # type: ignore[assignment]
    assert torch.equal(logits, 4.0 * mup(ids))
    attention = completep.blocks[0].attention
    assert isinstance(attention, Multiplied)
    assert [each.by for each in completep.modules() if isinstance(each, Multiplied)] == [2.0] * 4 + [4.0]
    x = torch.randn(1, 5, 64)
    assert torch.equal(attention(x), 2.0 * attention.layer(x))


@pytest.mark.parametrize("name", list(CONTESTANTS))
def test_every_optimizer_learns_and_knows_every_parameter(name: str) -> None:
    given = task("32x1x4", True, 0, "cpu")
    model = given.model()
    before = measuring(given, model, given.held_out, "cpu")()
    found = run(job(CONTESTANTS[name], QUICK.middle, CONTESTANTS[name].lr, "quick"), "cpu")
    assert found.final < before - 0.05
    assert [step for step, *_ in found.measured] == [3, 6, 9, 12]
    stepper = CONTESTANTS[name].build(model, given.inputs, found.job.setting)
    held = [parameter for opt in stepper.optimizers for group in opt.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.parameters()}
    for opt in stepper.optimizers:
        if isinstance(opt, normc.Optimizer):
            assert [row.name for row in opt.plan if row.fallback is not None or row.role == "unused"] == []


def test_a_rate_of_mup_follows_the_width_and_one_of_completep_the_depth() -> None:
    def scale(name: str, width: int, depth: int) -> float:
        model: nn.Module = llama(width, depth)
        one = CONTESTANTS[name]
        stepper = one.build(
            model, torch.zeros(1, 4, dtype=torch.long), job(one, Size(width, depth, 1), 1.0, "full").setting
        )
        (opt,) = stepper.optimizers
        assert isinstance(opt, normc.Optimizer)
        (row,) = [row for row in opt.plan if row.name.endswith("0.mixer.up.weight") or "0.mixer.layer.up" in row.name]
        return row.scale.value

    for name in ("mup-adam", "completep", "everett"):
        assert scale(name, 256, 4) == pytest.approx(1.0)
        assert scale(name, 64, 4) == pytest.approx(4.0)
    assert scale("completep", 256, 2) == pytest.approx(1.0)  # alpha 1: by depth, eps and decay alone


def test_a_grid_is_the_same_for_all_sizes_and_grows_where_a_best_one_is_at_its_end() -> None:
    one = CONTESTANTS["adamw"]
    full = SIZES["full"].all()
    grid = rates({}, one, "full")
    assert (len(grid), grid[3]) == (7, one.lr)
    for best, expected in ((grid[3], 7), (2 * grid[6], 9)):  # the second: one longer, and one more that ends it
        results: dict[str, Result] = {}
        while left := [each for each in due(results, "full", "*/adamw") if each.key not in results]:
            for each in left:
                shift = math.log2(each.lr / (best if each.workload == full[0].label else grid[3]))
                results[each.key] = made(each, (12, 3.0 + abs(shift)))
        assert len(rates(results, one, "full")) == expected
        assert len(results) == expected * len(full)


def test_the_report_says_what_one_rate_loses(tmp_path: Path) -> None:
    """Losses are 3 + |log2(lr / best)|; the best is the contestant's lr, but twice it at a batch of 8."""
    results = {}
    for each in due({}, "quick"):
        size, one = Size.of(each.workload), CONTESTANTS[each.optimizer]
        best = one.lr * (2 if size.batch == 8 else 1)
        loss = 3.0 + abs(math.log2(each.lr / best)) - (0.5 if size.batch == 8 else 0.0)
        first = 6 if size.batch > 2 else 9
        ended = each.optimizer == "muon" and each.lr > one.lr
        measured = ((3, math.inf),) if ended else ((3, loss + 2), (first, max(loss, 3.0)), (12, loss))
        results[each.key] = made(each, *measured)
    data = report.summary(results, "quick")
    report.write(data, tmp_path)
    plots.write(data, tmp_path)
    adamw = data["optimizers"]["adamw"]
    assert (adamw["one"], adamw["worst"]) == (0.003, pytest.approx(1.0, abs=0.01))
    assert adamw["sizes"]["32x1x8"] == {
        "losses": [pytest.approx(4.5), pytest.approx(3.5), pytest.approx(2.5)],
        "lr": 0.006, "best": pytest.approx(2.5), "edge": True, "regret": pytest.approx(1.0),
    }  # fmt: skip
    assert adamw["batches"]["steps"] == {"2": 9, "4": 6, "8": 6}
    assert data["optimizers"]["muon"]["sizes"]["32x1x4"]["losses"][2] == math.inf
    page = (tmp_path / "transfer-trained.md").read_text()
    assert "| adamw | 0.003 | 0.000 | 0.000 | 0.000 | 0.000 | 1.000 | 1.000 | 0.200 |" in page
    assert "2.500 (0.006 <) |" in page
    assert json.loads((tmp_path / "transfer-trained.json").read_text())["optimizers"]["muon"]["one"] == 0.01
    for name in ("", "-layers", "-batch"):
        assert (tmp_path / f"transfer-trained{name}.png").stat().st_size > 0


def test_a_rate_that_diverges_somewhere_comes_last(tmp_path: Path) -> None:
    results = {}
    for each in due({}, "quick", "*/auto"):
        lost = each.workload == "32x1x8" and each.lr == 0.8
        results[each.key] = made(each, (12, math.inf if lost else 3.0 + (each.lr - 0.8) ** 2))
    data = report.summary(results, "quick")
    assert list(data["optimizers"]) == ["auto"]
    assert data["optimizers"]["auto"]["one"] == 0.4
    gone = {key: made(result.job, (3, math.inf)) for key, result in results.items()}
    data = report.summary(gone, "quick")
    assert data["optimizers"]["auto"]["worst"] == math.inf
    report.write(data, tmp_path)
    plots.write(data, tmp_path)
    assert "diverged" in (tmp_path / "transfer-trained.md").read_text()


def test_a_sitting_runs_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    same = ["--quick", "--device", "cpu", "--results", str(path), "--only", "32x1x4/a*"]
    main([*same, "--list"])
    listed = capsys.readouterr().out.split()
    assert len(listed) == 3 * 2
    main([*same, "--within", "0"])
    assert not path.exists()
    left = {each.key: each for each in due({}, "quick", "32x1x4/a*")}
    for key in listed[:-1]:
        append(path, made(left[key], (12, 3.0)))
    with pytest.raises(SystemExit, match="no optimizer that has run its grid at two sizes"):
        main([*same, "--report"])
    capsys.readouterr()
    main([*same, "--within", "120"])
    done = read(path)
    assert done[listed[-1]].where != "a machine"
    assert done[listed[-1]].final < math.log(corpus("code", True).vocabulary)
    assert listed[0] not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="nothing matches '7x\\*'"):
        main(["--quick", "--only", "7x*"])


def test_no_time_runs_nothing() -> None:
    def never(given: Job, device: str) -> Result:
        raise AssertionError

    run_all(lambda: due({}, "quick"), lambda result: None, "cpu", 1, 0.0, never)
