"""`python -m benchmarks.sweep --library timm`: every architecture through `normc.plan`.

Results go to OUT/<library>.jsonl as they come in; then OUT/sweep.json holds both libraries' results, compact, and
OUT/sweep.md the same for people. Models already in the .jsonl are not run again.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import os
import sys
from pathlib import Path

import torch

import normc
from benchmarks.sweep import report
from benchmarks.sweep.measure import LIBRARIES, Outcome, measure
from benchmarks.sweep.workers import spread


def main() -> None:
    """Run what the command line names, then write the report on all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES, action="append", help="both unless given")
    parser.add_argument("--only", default="*", metavar="GLOB", help="names to run: 'resnet*', 'llama/*'")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--out", type=Path, default=Path("out/sweep"))
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds that one model may take")
    parser.add_argument("--within", type=float, default=1e9, help="seconds after which no further model is started")
    parser.add_argument("--report-only", action="store_true", help="write the report on what is in OUT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for library in () if arguments.report_only else arguments.library or tuple(LIBRARIES):
        _sweep(library, arguments)
    report.write(arguments.out)


def _sweep(library: str, arguments: argparse.Namespace) -> None:
    file = arguments.out / f"{library}.jsonl"
    module = LIBRARIES[library]
    all_names = module.names()
    known = {json.loads(line)["name"] for line in file.read_text().splitlines()} if file.exists() else set()
    names = [name for name in all_names if fnmatch.fnmatchcase(name, arguments.only) and name not in known]
    machine = report.note(arguments.out, library, module.version(), len(all_names))
    normc.plan(torch.nn.Linear(2, 2), torch.zeros(1, 2))  # what it imports is then there in every process
    work = functools.partial(measure, library)
    with file.open("a") as results:
        outcomes = spread(names, work, arguments.jobs, arguments.timeout, arguments.within)
        for done, (name, found, seconds) in enumerate(outcomes, 1):
            outcome: Outcome = {"name": name, "wall": round(seconds, 2), "machine": machine}
            late = f"over {arguments.timeout:.0f} s" if seconds >= arguments.timeout else "its process died"
            outcome |= found or {"status": "stopped", "error": late}
            results.write(json.dumps(outcome) + "\n")
            results.flush()
            print(f"{done}/{len(names)} {name}: {outcome['status']}, {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
