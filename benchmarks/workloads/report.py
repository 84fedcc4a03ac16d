"""The summary of all confirmed runs: numbers, a table, a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.workloads.job import Result, mean
from benchmarks.workloads.optimizers import CONTESTANTS, Setting
from benchmarks.workloads.score import geometric_mean, ratio, standard_error
from benchmarks.workloads.stages import RUNS, SEEDS, confirming, curve, default, jobs_of, swept, taking_part, tuned
from benchmarks.workloads.workload import Workload

TUNED, ONE = "auto, tuned", "auto, one lr"
Results = Mapping[str, Result]


def summary(results: Results, workloads: Mapping[str, Workload], size: str) -> dict[str, Any]:
    """Return everything that the table and the plot show, of the workloads and optimizers that are confirmed."""
    shared = default()
    found: dict[str, Any] = {}
    used: list[Result] = []
    for name, workload in workloads.items():
        lines: dict[str, Any] = {}
        for contestant in taking_part(workload):
            jobs = confirming(results, name, contestant, size)
            runs = [results[job.key] for job in jobs if job.key in results]
            if len(runs) == len(SEEDS):
                used += runs
                label = TUNED if contestant.name == "auto" else contestant.name
                tried = [job.lr for job in swept(results, name, contestant, size)]
                line = _line(tuned(results, name, contestant, size), runs)
                lines[label] = line | {"edge": line["lr"] in (min(tried), max(tried))}
        jobs = jobs_of(name, "auto", [shared], size, SEEDS)
        runs = [results[job.key] for job in jobs if job.key in results]
        if len(runs) == len(SEEDS):
            used += runs
            lines[ONE] = _line(shared, runs) | {"edge": False}
        if lines:
            found[name] = {"summary": workload.summary, "lines": lines}
    return {
        "size": size,
        "machines": sorted({result.where for result in used}),
        "torch": sorted({result.torch for result in used}),
        "dates": sorted({result.date for result in used}),
        "seeds": list(SEEDS),
        "one": {"lr": shared.lr, "decay": shared.decay},
        "workloads": found,
        "scores": {label: scores(found, label) for label in (TUNED, ONE)},
    }


def _line(setting: Setting | None, runs: list[Result]) -> dict[str, Any]:
    assert setting is not None
    finals = [run.final for run in runs]
    return {
        "lr": setting.lr, "rest": setting.rest, "decay": setting.decay, "steps": runs[0].steps,
        "final": mean(finals), "error": standard_error(finals) if all(map(math.isfinite, finals)) else math.inf,
        "curve": curve(runs, 2),
    }  # fmt: skip


def scores(found: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return, for each peer: a ratio of steps a workload, their geometric mean, and on how many `label` is ahead."""
    peers = [name for name in CONTESTANTS if name != "auto"]
    out: dict[str, Any] = {}
    for peer in peers:
        each = {
            name: ratio(entry["lines"][label]["curve"], entry["lines"][peer]["curve"])
            for name, entry in found.items()
            if label in entry["lines"] and peer in entry["lines"]
        }
        if each:
            ahead = sum(found[name]["lines"][label]["final"] < found[name]["lines"][peer]["final"] for name in each)
            out[peer] = {"mean": geometric_mean(list(each.values())), "ahead": ahead, "each": each}
    return out


def table(data: Mapping[str, Any]) -> str:
    """Return the page: the score against each peer, then final losses."""
    done = data["workloads"]
    labels = [TUNED, ONE, *(name for name in CONTESTANTS if name != "auto")]
    shown = [label for label in labels if any(label in entry["lines"] for entry in done.values())]
    one = data["one"]
    where, when = ", ".join(data["machines"]), f"{data['dates'][0]} to {data['dates'][-1]}"
    lines = [
        "# Workloads",
        "",
        f"{len(done)} workloads, size {data['size']}, on {where}; torch {', '.join(data['torch'])}; {when}.",
        "`python -m benchmarks.workloads --report` writes this page from the runs.",
        "",
        f"Each optimizer was tuned with {RUNS} runs a workload from one seed: seven learning rates with weight decay,",
        "three without, and two more around the best. The best was run from three other seeds. Settings were chosen by",
        "one held-out set; losses here are those of another.",
        f"`auto, one lr` is the recipe's own: lr {one['lr']:g}, weight decay {one['decay']:g}.",
        "",
        "## Steps that auto needs for a peer's final loss, over the peer's steps",
        "",
        "Geometric means over workloads; below 1, auto needs fewer. Steps are counted to the first measurement at that",
        "loss; where auto never gets there, the ratio is the peer's: its steps over those to auto's final loss.",
        "In brackets: workloads where auto's final loss is lower, of all that were run.",
        "",
        f"| peer | {TUNED} | {ONE} |",
        "|---|---:|---:|",
    ]
    for peer in [label for label in shown if label not in (TUNED, ONE)]:
        cells = []
        for label in (TUNED, ONE):
            own = data["scores"][label].get(peer)
            cells.append(f"{own['mean']:.2f} ({own['ahead']} of {len(own['each'])})" if own else "")
        lines.append(f"| {peer}: {CONTESTANTS[peer].source} | " + " | ".join(cells) + " |")
    lines += ["", "## Final held-out loss (lr)", ""]
    lines += ["Means of three seeds and their standard errors. `<`: the lowest or highest lr that was tried.", ""]
    lines += ["| workload | " + " | ".join(shown) + " |"]
    lines.append("|---|" + "---:|" * len(shown))
    for name, entry in done.items():
        lines.append(f"| {name} | " + " | ".join(_cell(entry["lines"].get(label)) for label in shown) + " |")
    return "\n".join([*lines, ""])


def _cell(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return ""
    return f"{line['final']:.4g} ± {line['error']:.1g} ({line['lr']:g}{' <' if line['edge'] else ''})"


def plot(data: Mapping[str, Any], path: Path) -> None:
    """Draw each workload's ratios, a colour a peer; left with auto tuned, right with one lr for all."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    names = list(data["workloads"])
    figure, panels = plt.subplots(1, 2, figsize=(10, 2.4 + 0.3 * len(names)), dpi=144, sharey=True, sharex=True)
    for axes, label in zip(panels, (TUNED, ONE), strict=True):
        for index, (peer, own) in enumerate(data["scores"][label].items()):
            places = [names.index(name) for name in own["each"]]
            colour = f"C{index}"
            axes.plot(list(own["each"].values()), places, "o", color=colour, label=f"{peer}: {own['mean']:.2f}")
            axes.axvline(own["mean"], color=colour, linewidth=0.8, alpha=0.5)
        axes.set_xscale("log", base=2)
        axes.axvline(1.0, color="0.6", linewidth=1)
        axes.set_title(label, loc="left", fontsize=10)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        axes.set_xlabel("steps to the peer's final loss / the peer's steps")
        axes.grid(alpha=0.25)
        if data["scores"][label]:
            axes.legend(frameon=False, fontsize=7, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.08))
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def write(data: Mapping[str, Any], folder: Path) -> None:
    """Write workloads.json, workloads.md and workloads.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workloads.json").write_text(json.dumps(finite(data), indent=1) + "\n")
    (folder / "workloads.md").write_text(table(data))
    plot(data, folder / "workloads.png")


def finite(value: Any) -> Any:
    """Return the same with null for what JSON has no number for, and losses of six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(own) for name, own in value.items()}
    return [finite(own) for own in value] if isinstance(value, list | tuple) else value
