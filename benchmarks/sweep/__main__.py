"""`python -m benchmarks.sweep --library timm`: every architecture through `normc.plan`; `--libraries`: other libraries.

Results go to OUT/<library>.jsonl as they come in; then OUT/sweep.json holds both libraries' results, compact, and
OUT/sweep.md the same for people. Models already in the .jsonl are not run again. `--libraries` runs the models of
benchmarks/sweep/libraries instead and writes OUT/libraries.json and OUT/libraries.md; OUT/plans/<name>.txt has each
model's rows, for a person to read.

`--sample N --seed S` runs N names chosen at random. `--shard 3/8` runs every eighth name from the third on: give each
machine a shard and a folder, then put the .jsonl files together and use --report-only.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import normc
from benchmarks.sweep import others, report, shelf
from benchmarks.sweep.measure import LIBRARIES, Outcome, measure
from benchmarks.sweep.workers import spread


def main() -> None:
    """Run what the command line names, then write the report on all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES, action="append", help="both unless given")
    parser.add_argument("--libraries", action="store_true", help="the other libraries that are installed")
    parser.add_argument("--seeds", type=int, default=1, help="settings that each model of --libraries is tried with")
    parser.add_argument("--only", default="*", metavar="GLOB", help="names to run: 'resnet*', 'llama/*'")
    parser.add_argument("--sample", type=int, metavar="N", help="run N of the names, chosen at random")
    parser.add_argument("--seed", type=int, default=0, help="of --sample")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="run every N-th name from the K-th on")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--out", type=Path, default=Path("out/sweep"))
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds that one model may take")
    parser.add_argument("--within", type=float, default=1e9, help="seconds after which no further model is started")
    parser.add_argument("--report-only", action="store_true", help="write the report on what is in OUT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.libraries:
        _shelves(arguments)
        return
    for library in () if arguments.report_only else arguments.library or tuple(LIBRARIES):
        module = LIBRARIES[library]
        all_names = module.names()
        machine = report.note(arguments.out, library, module.version(), len(all_names))
        _run(f"{library}.jsonl", all_names, functools.partial(measure, library), machine, arguments)
    report.write(arguments.out)


def _shelves(arguments: argparse.Namespace) -> None:
    """The libraries of benchmarks/sweep/libraries, one after another: each is imported once, before its models."""
    versions = others.versions()
    for name in () if arguments.report_only else versions:
        chosen = [one for one in others.names(arguments.seeds) if one.startswith(f"{name}/")]
        if not any(fnmatch.fnmatchcase(one, arguments.only) for one in chosen):
            continue
        machine = report.note(arguments.out, "libraries", json.dumps(versions), len(others.names(arguments.seeds)))
        if (problem := others.prepare(name)) is not None:
            print(f"{name} can't be imported: {problem}", file=sys.stderr)
        _run("libraries.jsonl", chosen, others.measure, machine, arguments)
    shelf.write(arguments.out)


def _run(
    file: str, names: list[str], work: Callable[[str], Outcome], machine: int, arguments: argparse.Namespace
) -> None:
    """Add to OUT/file what comes of the names that the command line chooses and that aren't there yet."""
    path = arguments.out / file
    known = {json.loads(line)["name"] for line in path.read_text().splitlines()} if path.exists() else set()
    place, parts = map(int, arguments.shard.split("/"))
    names = names[place - 1 :: parts]
    if arguments.sample is not None:
        names = random.Random(arguments.seed).sample(names, min(arguments.sample, len(names)))
    names = [name for name in names if fnmatch.fnmatchcase(name, arguments.only) and name not in known]
    normc.plan(torch.nn.Linear(2, 2), torch.zeros(1, 2))  # what it imports is then there in every process
    with path.open("a") as results:
        outcomes = spread(names, work, arguments.jobs, arguments.timeout, arguments.within)
        for done, (name, found, seconds) in enumerate(outcomes, 1):
            outcome: Outcome = {"name": name, "wall": round(seconds, 2), "machine": machine}
            late = f"over {arguments.timeout:.0f} s" if seconds >= arguments.timeout else "its process died"
            outcome |= found or {"status": "stopped", "error": late}
            if said := outcome.pop("said", None):
                place = arguments.out / "plans" / f"{name}.txt"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text("\n".join(said) + "\n")
            results.write(json.dumps(outcome) + "\n")
            results.flush()
            print(f"{done}/{len(names)} {name}: {outcome['status']}, {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
