"""Runs normc inside every host that is installed, beside the plain loop: `python -m benchmarks.hosts [NAME ...]`.

Each host trains once with a checkpoint in the middle, once more in a new process from that checkpoint, and the plain
loop trains alone; weights are compared bit by bit. The table goes to docs/hosts.md with --write.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.hosts.host import Host, Job, hosts
from benchmarks.hosts.plain import weights
from benchmarks.sweep.vision import importable_torchvision

PAGE = Path("docs/hosts.md")
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


def line(name: str, steps: int, eager: bool) -> str:
    """A host's line of the table."""
    host: Host = hosts[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ends = {way: trained(name, way, steps, folder, eager) for way in WAYS}
    plain, resumed = (difference(ends["train"], ends[way]) for way in ("plain", "resume"))
    return f"| {host.title} | {host.package} {host.version} | {host.what} | {said(plain)} | {said(resumed)} |"


def main() -> None:
    """Run one way of one host, or all and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=(__doc__ or "").split(":")[0])
    parser.add_argument("names", nargs="*", help="of runs; all by default")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--eager", action="store_true", help="don't compile normc's cores")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    parser.add_argument("--way", choices=WAYS, help="run this way of one host alone")
    parser.add_argument("--folder", type=Path, help="where --way finds and leaves its files")
    given = parser.parse_args()
    torch.set_num_threads(1)
    importable_torchvision()  # several hosts import it where it is installed
    if given.way is not None:
        job = Job(given.steps, given.folder, given.way == "resume", not given.eager)
        one(given.names[0], given.way, job)
        return
    table = [
        "| host | version | what | equal to the plain loop | resumed in a new process |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in given.names or hosts:
        if hosts[name].missing:
            print(f"{name}: not run, {', '.join(hosts[name].missing)} isn't installed", flush=True)
            continue
        table.append(line(name, given.steps, given.eager))
        print(table[-1], flush=True)
    if given.write:
        text = PAGE.read_text()
        head, rest = text.split(BEGIN)
        cores = "not compiled" if given.eager else "compiled"
        where = f"{given.steps} steps, torch {torch.__version__}, one thread, normc's cores {cores}:"
        PAGE.write_text(f"{head}{BEGIN}\n{where}\n\n" + "\n".join(table) + f"\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
