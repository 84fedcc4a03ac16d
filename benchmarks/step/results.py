"""A table for the terminal, a file of numbers, and a plot."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.step.ours import ABLATED
from workloads.machine import machine

COLUMNS = ("median, ms", "times normc's", "cold first step, s", "first step from disk, s", "host, ms", "workspace, MB")
PACKAGES = ("torch", "triton", "gram-newton-schulz", "quack-kernels", "nvidia-cutlass-dsl")


def circumstances(device: str) -> dict[str, Any]:
    """Date, device and versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name() if device == "cuda" else f"{machine()}, {threads} threads"
    if device == "cpu" and threads == 1:
        where = f"{machine()}, 1 thread, processor time"
    return {"date": dt.date.today().isoformat(), "device": where, "python": platform.python_version(),
            "versions": versions, "load": round(os.getloadavg()[0], 2)}  # fmt: skip


def best(results: list[dict[str, Any]]) -> tuple[str, float] | None:
    """The fastest contestant that isn't normc and does as much, and normc's speed over it."""
    able = [one for one in results if one.get("kind") in ("peer", "bar") and "times normc's" in one]
    if not able:
        return None
    first = min(able, key=lambda one: float(one["times normc's"]))
    return str(first["name"]), float(first["times normc's"])


def worst_quality(one: dict[str, Any]) -> dict[str, str]:
    """For each spectrum: the least share in range and the largest error over the shapes."""
    found: dict[str, str] = {}
    for spectrum in dict.fromkeys(entry["spectrum"] for entry in one.get("quality", ())):
        own = [entry for entry in one["quality"] if entry["spectrum"] == spectrum]
        share = min(entry["in range"] for entry in own)
        errors = [entry["error"] for entry in own]
        error = "not finite" if None in errors else f"{max(errors):.3f}"
        found[spectrum] = f"{share:.0%} {error}"
    return found


def ablation(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each rewrite that was left out: ms with it and without it, in turns, their ratio, and what was predicted."""
    found = []
    for one in results:
        if one["name"].startswith(ABLATED) and "times normc's" in one:
            entry = {"rewrite": one["name"].removeprefix(ABLATED), "with, ms": one["normc beside, ms"],
                     "without, ms": one["median, ms"], "without / with": one["times normc's"],
                     "predicted": one.get("predicted", "")}  # fmt: skip
            found.append(entry)
    return found


def show_ablation(suite: str, results: list[dict[str, Any]]) -> None:
    """A table of `ablation`, if there is any."""
    found = ablation(results)
    if not found:
        return
    table = Table(title=f"{suite}: normc without a rewrite, and beside it with all of them", title_justify="left",
                  box=None, padding=(0, 1))  # fmt: skip
    for head in found[0]:
        table.add_column(head, justify="left" if head in ("rewrite", "predicted") else "right")
    for entry in found:
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else cell for cell in entry.values()))
    Console(width=180).print(table)


def show(suite: str, summary: str, results: list[dict[str, Any]]) -> None:
    """One table a suite."""
    spectra = list(dict.fromkeys(name for one in results for name in worst_quality(one)))
    table = Table(title=f"{suite}: {summary}", title_justify="left", box=None, padding=(0, 1))
    table.add_column("")
    for head in (*COLUMNS, *(f"{name}: in range, error" for name in spectra)):
        table.add_column(head, justify="right")
    for one in sorted(results, key=lambda one: one.get("median, ms", float("inf"))):
        if "median, ms" in one and one["kind"] != "ablation":
            quality = worst_quality(one)
            cells = ["" if one.get(name) is None else f"{one[name]:g}" for name in COLUMNS]
            table.add_row(one["name"], *cells, *(quality.get(name, "") for name in spectra))
    console = Console(width=180)
    console.print(table)
    for one in results:
        if "skipped" in one:
            console.print(f"  {one['name']}: not run, {one['skipped']}", markup=False)
    found = best(results)
    if found is not None:
        console.print(f"  normc takes 1/{found[1]:g} of the time of {found[0]}, the best of them\n")
    show_ablation(suite, results)


def save(path: Path, device: str, suites: dict[str, Any]) -> None:
    """Numbers as JSON; what an earlier file has and wasn't run again stays, suites and contestants."""
    old = json.loads(path.read_text()) if path.is_file() else {}
    now = circumstances(device)
    for name, found in suites.items():
        run = {one["name"] for one in found["results"]}
        kept = [one for one in old.get(name, {}).get("results", ()) if one["name"] not in run]
        results = [{**one, "date": now["date"]} for one in found["results"]] + kept
        suites[name] = found | {"results": results}
        if own := ablation(results):
            suites[name]["ablation"] = own
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(old | {name: now | found for name, found in suites.items()}, indent=1) + "\n")


def plot(data: dict[str, Any], path: Path) -> None:
    """Bars a suite, on a scale of logarithms."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    colours = {"normc": "#c8472b", "peer": "#4a6fa5", "bar": "#9aa5b1", "scale": "#d9d9d9"}
    figure, axes = plt.subplots(
        len(data), 1, figsize=(8, 0.6 + sum(0.5 + 0.27 * _count(found) for found in data.values())), dpi=144,
        squeeze=False, height_ratios=[_count(found) + 1 for found in data.values()],
    )  # fmt: skip
    for (name, found), axis in zip(data.items(), axes[:, 0], strict=True):
        able = sorted(_shown(found), key=lambda one: -one["median, ms"])
        places = range(len(able))
        times = [one["median, ms"] for one in able]
        axis.barh(places, times, color=[colours[one["kind"]] for one in able], height=0.72, log=True)
        axis.set_yticks(places, [one["name"] for one in able], fontsize=8)
        axis.set_xlim(min(times) / 3, max(times) * 2.2)
        for place, time in zip(places, times, strict=True):
            axis.text(time * 1.05, place, f"{time:,.0f}" if time >= 100 else f"{time:.3g}", va="center", fontsize=8)
        axis.set_title(f"{name}   {found['device']}, {found['date']}", fontsize=9, loc="left")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("ms a step", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _count(found: dict[str, Any]) -> int:
    return len(_shown(found))


def _shown(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Contestants that ran; ablations have a table of their own."""
    return [one for one in found["results"] if "median, ms" in one and one["kind"] != "ablation"]
