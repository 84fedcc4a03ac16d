"""Time whole `opt.step()` calls: `python -m benchmarks.step [--suite NAME ...] [--peers PATH] [--device cuda]`.

Every contestant is built and stepped once in a process of its own with empty compile caches (its cold first step), and
once more from what that left on disk; then all step the same gradients in one process, each in turns with normc. Beside
the times: the host's part, the memory that a step takes beyond its state, and how orthogonal the update is, against
float64. A contestant that can't be imported, fails or takes more than --limit seconds is named with the reason.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.step import ours, results
from benchmarks.step.processes import Job
from benchmarks.step.run import contestants, in_here, measured
from benchmarks.step.suites import SUITES

DOCS = Path(__file__).parents[2] / "docs"


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", nargs="+", choices=list(SUITES), help="by default all of the device's")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peers", type=Path, help="a folder to import other optimizers from")
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="contestants whose names hold one of these, and normc"
    )
    parser.add_argument("--layers", type=int, default=0, help="only so many of a suite's layers, for a slow machine")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each contestant")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for a contestant")
    parser.add_argument("--no-cold", action="store_true", help="leave out first steps in processes of their own")
    parser.add_argument("--quick", action="store_true", help="tiny suites, three steps, nothing cold: does it run?")
    parser.add_argument(
        "--ablate",
        nargs="*",
        metavar="REWRITE",
        help="normc without each of these rewrites too; without each that can be left out, if none is named",
    )
    parser.add_argument("--out", type=Path, help="docs/step-DEVICE.json by default; the plot lies beside it")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run, show, save."""
    given = options().parse_args(arguments)
    if given.job:
        job = json.loads(given.job)
        return in_here(Job(**job | {"names": tuple(job["names"])}))
    ablate = () if given.ablate is None else tuple(given.ablate) or ours.switchable(given.device)
    found: dict[str, Any] = {}
    path: Path = given.out or DOCS / f"step-{given.device}.json"
    for name in given.suite or [suite.name for suite in SUITES.values() if given.device in suite.devices]:
        suite = SUITES[name]
        names = [one.name for one in contestants(name, given.device, ablate)]
        wanted = given.only
        names = [one for one in names if wanted is None or one == "normc" or any(text in one for text in wanted)]
        steps = 3 if given.quick else given.steps
        peers = str(given.peers.resolve()) if given.peers else ""
        job = Job("beside", name, tuple(names), given.device, given.quick, given.layers, steps, peers, given.limit)
        name, what = _titled(name, suite.summary, given)
        print(f"{name}: {what}", flush=True)
        lines = measured(job, names, not (given.no_cold or given.quick), lambda text: print(text, flush=True))
        found[name] = {"suite": what, "results": lines}
        results.show(name, what, lines)
        results.save(path, given.device, found)
    results.plot(json.loads(path.read_text()), path.with_suffix(".png"))
    return None


def _titled(name: str, summary: str, given: argparse.Namespace) -> tuple[str, str]:
    """A suite's name and summary, with what was left out of it."""
    note = "tiny" if given.quick else f"{given.layers} layer{'s' * (given.layers > 1)}" if given.layers else ""
    return (f"{name} ({note})", f"{note} of {summary}") if note else (name, summary)


if __name__ == "__main__":
    main()
