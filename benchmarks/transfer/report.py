"""The summary of all runs: losses by learning rate, the best of each size, and what one learning rate for all loses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import normc
from benchmarks.transfer.contestants import CONTESTANTS
from benchmarks.transfer.due import SEED, job, losses, rates
from benchmarks.transfer.sizes import AXES, SIZES, Size
from benchmarks.workloads.job import Result
from benchmarks.workloads.optimizers import Contestant
from benchmarks.workloads.report import finite
from benchmarks.workloads.score import reached

Results = Mapping[str, Result]


def summary(results: Results, form: str) -> dict[str, Any]:
    """Return all that the page and the plots show, of the sizes whose grid is done; for at least two of them."""
    found, used = {}, []
    for contestant in CONTESTANTS.values():
        grid = rates(results, contestant, form)
        sizes = [one for one in SIZES[form].all() if losses(results, contestant, one, grid, form) is not None]
        if len(sizes) > 1:
            own = {one.label: [results[job(contestant, one, lr, form).key] for lr in grid] for one in sizes}
            used += [result for runs in own.values() for result in runs]
            found[contestant.name] = _optimizer(contestant, own, grid, form)
    return {
        "size": form,
        "seed": SEED,
        "machines": sorted({result.where for result in used}),
        "torch": sorted({result.torch for result in used}),
        "dates": sorted({result.date for result in used}),
        "steps": sorted({result.steps for result in used}),
        "sizes": {axis: [one.label for one in SIZES[form].along(axis)] for axis in AXES},
        "optimizers": found,
    }


def _optimizer(contestant: Contestant, own: Mapping[str, Sequence[Result]], grid: list[float], form: str) -> Any:
    """Learning rates are chosen by the tuning loss; the losses that are shown are held out."""
    lost = {label: _regrets(runs) for label, runs in own.items()}
    order = [_score([each[place] for each in lost.values()]) for place in range(len(grid))]
    one = order.index(min(order))
    sizes: dict[str, dict[str, Any]] = {}
    for label, runs in own.items():
        best = lost[label].index(min(lost[label]))
        sizes[label] = {
            "losses": [run.final for run in runs],
            "lr": grid[best],
            "best": runs[best].final,
            "edge": best in (0, len(grid) - 1),
            "regret": _regret(runs[one].final, runs[best].final),
        }
    regrets = [each["regret"] for each in sizes.values()]
    return {
        "source": contestant.source,
        "decay": contestant.decay,
        "rates": grid,
        "one": grid[one],
        "sizes": sizes,
        "worst": max(regrets),
        "mean": sum(regrets) / len(regrets),
        "batches": batches(own, form),
    }


def _regrets(runs: Sequence[Result]) -> list[float]:
    """Return what each run loses against the best by the tuning loss; inf for one that diverged, also where all did."""
    tuning = [run.tuning if math.isfinite(run.final) else math.inf for run in runs]
    return [_regret(loss, min(tuning)) for loss in tuning]


def _regret(loss: float, best: float) -> float:
    return loss - best if math.isfinite(loss) else math.inf


def _score(regrets: Sequence[float]) -> tuple[int, float]:
    """Return at how many sizes a rate diverges, which counts first, and what it loses at the others."""
    able = [regret for regret in regrets if math.isfinite(regret)]
    return len(regrets) - len(able), math.fsum(able)


def batches(own: Mapping[str, Sequence[Result]], form: str) -> dict[str, Any]:
    """Return the steps to one tuning loss at each batch size, each at its best rate, and the law of normc.cbs.

    The loss is the highest of the batch sizes' best final ones, so that all of them get there.
    """
    sizes = {one.batch: own[one.label] for one in SIZES[form].along("batch") if one.label in own}
    ends = {batch: min(run.tuning for run in runs) for batch, runs in sizes.items()}
    ends = {batch: loss for batch, loss in ends.items() if math.isfinite(loss)}
    if not ends:
        return {"why": "no batch size has run its grid without diverging"}
    target = max(ends.values())
    steps: dict[int, int] = {}
    for batch in ends:
        counts = [reached([(row[0], row[1]) for row in run.measured], target) for run in sizes[batch]]
        steps[batch] = min(count for count in counts if count is not None)
    found: dict[str, Any] = {"target": target, "steps": {str(batch): count for batch, count in steps.items()}}
    try:
        law = normc.cbs.fit(list(steps), list(steps.values()))
    except normc.NormcError as problem:
        return found | {"why": problem.problem}
    return found | {"a": law.a, "b": law.b, "critical": law.critical, "extrapolated": law.extrapolated}


def page(data: Mapping[str, Any]) -> str:
    """Return the page: regrets of one learning rate, the best loss of each size, the batch sizes."""
    done = data["optimizers"]
    where, when = ", ".join(data["machines"]), f"{data['dates'][0]} to {data['dates'][-1]}"
    steps = " or ".join(map(str, data["steps"]))
    lines = [
        "# One learning rate for every size",
        "",
        f"A Llama-like model on code, {steps} steps, size {data['size']}, seed {data['seed']}, on {where}; torch",
        f"{', '.join(data['torch'])}; {when}. `python -m benchmarks.transfer --report` writes this page from the runs.",
        "",
        "A size is width x blocks x rows of a batch. Every optimizer has one grid of learning rates, a factor of two",
        "apart, for all sizes. It is made longer, by two rates at most, at an end where the best of a size lies.",
        "Learning rates are chosen by one held-out set; losses here, in nats a token, are those of another.",
        "`diverged`: the loss wasn't finite. There is one seed: differences of a hundredth say nothing.",
        "",
        "## What one learning rate loses",
        "",
        "The loss at the one learning rate that loses least in sum over the sizes, minus that at the size's own best.",
        "Below 0, the best by the tuning loss is not the best by the reported one.",
        "",
        _row("optimizer", "the one lr", *(label for label in _labels(data)), "most", "mean"),
        _rule(len(_labels(data)) + 3),
    ]
    for name, own in done.items():
        cells = [_number(own["sizes"], label, "regret") for label in _labels(data)]
        lines.append(_row(name, f"{own['one']:g}", *cells, _loss(own["worst"]), _loss(own["mean"])))
    lines += ["", "## Best loss of each size (lr)", "", "`<`: at an end of the grid.", ""]
    lines += [_row("optimizer", *_labels(data)), _rule(len(_labels(data)))]
    for name, own in done.items():
        lines.append(_row(name, *(_best(own["sizes"].get(label)) for label in _labels(data))))
    lines += ["", "![Loss against learning rate](transfer-trained.png)", "", *_layers(), *_batches(done)]
    return "\n".join([*lines, ""])


def _layers() -> list[str]:
    return [
        "## A rate for each layer, or another parameterisation",
        "",
        "Everett et al. (2407.05872) find that the standard parameterisation does no worse than muP if each kind of",
        "layer has a learning rate of its own. `everett` is that, `mup-adam` is muP, `adamw` is one rate for all:",
        "",
        "![Best loss and best learning rate against width](transfer-trained-layers.png)",
        "",
    ]


def _batches(done: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Critical batch size",
        "",
        "Steps to one loss, that of the batch size whose best final loss is the highest, each at its best rate, and",
        "the batch size at which the law a + b / B of `normc.cbs.fit` takes 1.2 times the fewest examples. All runs",
        "have one schedule of the same length, so steps are counted while rates still fall; `normc.cbs.measure` has",
        "constant rates and averaged weights instead ([cbs.md](cbs.md)). Compare the optimizers, not the numbers.",
        "",
        _row("optimizer", "loss", "steps at each batch size", "critical batch size"),
        _rule(3),
    ]
    for name, own in done.items():
        found = own["batches"]
        steps = ", ".join(f"{batch}: {count}" for batch, count in found.get("steps", {}).items())
        critical = "beyond all" if found.get("extrapolated") else f"{found.get('critical', math.nan):.0f}"
        lines.append(_row(name, _loss(found.get("target")), steps, found.get("why", critical)))
    return [*lines, "", "![Steps against batch size](transfer-trained-batch.png)"]


def _labels(data: Mapping[str, Any]) -> list[str]:
    """Return the sizes that an optimizer has, in the order of width, depth, batch."""
    known = dict.fromkeys(label for axis in AXES for label in data["sizes"][axis])
    return [label for label in known if any(label in own["sizes"] for own in data["optimizers"].values())]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(numbers: int) -> str:
    return "|---|" + "---:|" * numbers


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if math.isfinite(value) else "diverged"


def _number(sizes: Mapping[str, Any], label: str, what: str) -> str:
    return _loss(sizes[label][what]) if label in sizes else ""


def _best(own: Mapping[str, Any] | None) -> str:
    return "" if own is None else f"{_loss(own['best'])} ({own['lr']:g}{' <' if own['edge'] else ''})"


def varied(data: Mapping[str, Any], axis: str) -> dict[int, str]:
    """Return the values of an axis, and the label of each."""
    return {getattr(Size.of(label), axis): label for label in data["sizes"][axis]}


def write(data: Mapping[str, Any], folder: Path) -> None:
    """Write transfer-trained.json and .md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transfer-trained.json").write_text(json.dumps(finite(data), indent=1) + "\n")
    (folder / "transfer-trained.md").write_text(page(data))
