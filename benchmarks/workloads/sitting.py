"""The command line of benchmarks whose runs are lines of JSON: what is due is listed or run, for as long as is said."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.workloads.job import Job, Result, append, read
from benchmarks.workloads.workers import Run, run_all

ROOT = Path(__file__).parents[2]
Due = Callable[[Mapping[str, Result]], list[Job]]


def options(prog: str, summary: str, only: str, results: str) -> argparse.ArgumentParser:
    """Return the parser. `only` says what --only matches, `results` names the file of results.

    Those of full size are committed, so that the next sitting goes on where this one ended, on whatever machine.
    """
    parser = argparse.ArgumentParser(prog=prog, description=summary)
    parser.add_argument("--quick", action="store_true", help="tiny forms, seconds each on a CPU core; no evidence")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that share the device")
    parser.add_argument("--within", type=float, default=math.inf, metavar="SECONDS", help="stop after this time")
    parser.add_argument("--only", default="*", metavar="GLOB", help=only)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, help=f"by default benchmarks/runs/{results}.jsonl; of --quick, out/")
    parser.add_argument("--again", action="store_true", help="run jobs that failed once more")
    parser.add_argument("--list", action="store_true", help="print the keys of what is due now, and run nothing")
    parser.add_argument(
        "--report", action="store_true", help="write the report and run nothing; of --quick, beside the results"
    )
    parser.set_defaults(name=results)
    return parser


def size_of(given: argparse.Namespace) -> str:
    """Return "quick" or "full"."""
    return "quick" if given.quick else "full"


def path_of(given: argparse.Namespace) -> Path:
    """Return the file of results."""
    usual = (
        ROOT / "out" / given.name / "quick.jsonl" if given.quick else ROOT / "benchmarks/runs" / f"{given.name}.jsonl"
    )
    path: Path = given.results or usual
    return path


def results_of(given: argparse.Namespace) -> dict[str, Result]:
    """Return the results that there are; without those that failed if they are to be run again."""
    results = read(path_of(given))
    return {key: result for key, result in results.items() if not (given.again and result.failed)}


def pages_of(given: argparse.Namespace) -> Path:
    """Return the folder that a report goes to."""
    return path_of(given).parent if given.quick else ROOT / "docs"


def sit(given: argparse.Namespace, results: dict[str, Result], due: Due, run: Run) -> None:
    """Print what is due, or run it and add each result to the file and to `results`."""
    path = path_of(given)
    if given.list:
        print("\n".join(job.key for job in due(results)))
        return

    def keep(result: Result) -> None:
        append(path, result)
        results[result.job.key] = result
        loss = result.failed or f"{result.tuning:.4f}"
        print(f"{len(results):5}  {result.seconds:7.2f} s  {loss:>8}  {result.job.key}", flush=True)

    run_all(lambda: due(results), keep, given.device, given.jobs, given.within, run)
    print(f"{len(results)} results in {path}, {len(due(results))} runs due as far as is known")
