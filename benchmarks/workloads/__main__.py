"""Tune and compare optimizers on small workloads: `python -m benchmarks.workloads [--jobs N] [--within SECONDS]`.

Every optimizer gets the same number of runs on every workload: seven learning rates, without and with weight decay, two
more around the best of them, and the best from three other seeds. Results are lines of JSON in --results; a run that
has one isn't run again, so several sittings add up. --report writes docs/workloads.json, .md and .png from them.
"""

from __future__ import annotations

import argparse
import math
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from benchmarks.workloads import report
from benchmarks.workloads.job import Result, append, read
from benchmarks.workloads.stages import due
from benchmarks.workloads.workers import run_all
from benchmarks.workloads.workload import load

ROOT = Path(__file__).parents[2]


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workloads", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny forms, seconds each on a CPU core; no evidence")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that share the device")
    parser.add_argument("--within", type=float, default=math.inf, metavar="SECONDS", help="stop after this time")
    parser.add_argument("--only", default="*", metavar="GLOB", help="workloads whose names match")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, help="by default out/workloads/full.jsonl, or quick.jsonl")
    parser.add_argument("--again", action="store_true", help="run jobs that failed once more")
    parser.add_argument("--list", action="store_true", help="print the keys of what is due now, and run nothing")
    parser.add_argument(
        "--report", action="store_true", help="write the report and run nothing; of --quick, beside the results"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run what is due, or report."""
    given = options().parse_args(arguments)
    size = "quick" if given.quick else "full"
    path: Path = given.results or ROOT / "out" / "workloads" / f"{size}.jsonl"
    workloads, results = load(), read(path)
    only = [name for name in workloads if fnmatchcase(name, given.only)]
    if not only:
        raise SystemExit(f"no workload matches {given.only!r}\n  fix: choose among {', '.join(workloads)}")
    if given.again:
        results = {key: result for key, result in results.items() if not result.failed}
    if given.report:
        data = report.summary(results, workloads, size)
        if not data["workloads"]:
            raise SystemExit(f"{path} has no optimizer that is confirmed from three seeds\n  fix: run longer first")
        folder = path.parent if given.quick else ROOT / "docs"
        report.write(data, folder)
        print(f"wrote workloads.json, .md and .png to {folder}")
        return
    if given.list:
        print("\n".join(job.key for job in due(results, workloads, size, only)))
        return

    def keep(result: Result) -> None:
        append(path, result)
        results[result.job.key] = result
        loss = result.failed or f"{result.tuning:.4f}"
        print(f"{len(results):5}  {result.seconds:7.2f} s  {loss:>8}  {result.job.key}", flush=True)

    run_all(lambda: due(results, workloads, size, only), keep, given.device, given.jobs, given.within)
    print(f"{len(results)} results in {path}, {len(due(results, workloads, size, only))} runs due as far as is known")


if __name__ == "__main__":
    main()
