"""Runs normc inside every host that is installed, beside the plain loop: `python -m benchmarks.hosts [NAME ...]`.

Each host trains once with a checkpoint in the middle, once more in a new process from that checkpoint, and the plain
loop trains alone; weights are compared bit by bit. With --write, results go to
docs/hosts.json, which keeps those of runs before, and the table to docs/hosts.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.hosts.host import Host, Job, hosts
from benchmarks.hosts.plain import weights
from benchmarks.sweep.vision import importable_torchvision

PAGE, RESULTS = Path("docs/hosts.md"), Path("docs/hosts.json")
HEADING = (
    "| host | version | what | steps | equal to the plain loop | resumed in a new process |",
    "| --- | --- | --- | --- | --- | --- |",
)
BEGIN, END = "<!-- made by `make hosts` -->\n", "<!-- until here -->\n"
WAYS = ("train", "resume", "plain")


def one(name: str, way: str, job: Job) -> None:
    """Train one way and write the weights into the job's folder."""
    run = hosts[name].plain if way == "plain" else hosts[name].train
    torch.save(list(weights(run(job)).values()), job.folder / f"{way}.end")


def trained(name: str, way: str, steps: int, folder: Path, eager: bool) -> list[Tensor]:
    """Train one way in a process of its own and return the weights. RuntimeError with what it said if it fails."""
    command = [sys.executable, "-m", "benchmarks.hosts", name, "--way", way, "--folder", str(folder)]
    command += ["--steps", str(steps), *(["--eager"] if eager else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, {way}: {done.stderr[-2000:]}")
    found: list[Tensor] = torch.load(folder / f"{way}.end", weights_only=True)
    return found


def difference(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest difference of any weight; 0 if every bit is equal."""
    pairs = list(zip(first, second, strict=True))
    return max(0.0 if torch.equal(a, b) else float((a - b).abs().max()) for a, b in pairs)


def said(value: float) -> str:
    """A difference as the table has it."""
    return "to the bit" if value == 0 else f"to {value:.1e}"


def compared(name: str, steps: int, eager: bool) -> dict[str, Any]:
    """What a host's entry in docs/hosts.json says: what ran, and the largest differences of any weight."""
    host: Host = hosts[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ends = {way: trained(name, way, steps, folder, eager) for way in WAYS}
    plain, resumed = (difference(ends["train"], ends[way]) for way in ("plain", "resume"))
    named = {"title": host.title, "version": f"{host.package} {host.version}", "what": host.what}
    return {**named, "steps": steps, "compiled": not eager, "plain": plain, "resumed": resumed}


def line(entry: dict[str, Any]) -> str:
    """A host's line of the table."""
    steps = f"{entry['steps']}{', compiled' if entry['compiled'] else ''}"
    ends = f"{said(entry['plain'])} | {said(entry['resumed'])}"
    return f"| {entry['title']} | {entry['version']} | {entry['what']} | {steps} | {ends} |"


def main() -> None:
    """Run one way of one host, or all and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=(__doc__ or "").split(":")[0])
    parser.add_argument("names", nargs="*", help="of runs; all by default")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--eager", action="store_true", help="don't compile normc's cores")
    parser.add_argument("--write", action="store_true", help=f"keep results in {RESULTS}, put the table into {PAGE}")
    parser.add_argument("--way", choices=WAYS, help="run this way of one host alone")
    parser.add_argument("--folder", type=Path, help="where --way finds and leaves its files")
    given = parser.parse_args()
    torch.set_num_threads(1)
    importable_torchvision()  # several hosts import it where it is installed
    if given.way is not None:
        job = Job(given.steps, given.folder, given.way == "resume", not given.eager)
        one(given.names[0], given.way, job)
        return
    found: dict[str, Any] = {}
    for name in given.names or hosts:
        if hosts[name].missing:
            print(f"{name}: not run, {', '.join(hosts[name].missing)} isn't installed", flush=True)
            continue
        found[name] = compared(name, given.steps, given.eager)
        print(line(found[name]), flush=True)
    if given.write:
        found = (json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}) | found
        RESULTS.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
        head, rest = PAGE.read_text().split(BEGIN)
        table = "\n".join([*HEADING, *(line(found[name]) for name in sorted(found))])
        PAGE.write_text(f"{head}{BEGIN}\n{table}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
