"""What a step over 2 to 4,096 ranks would take, predicted: `python -m benchmarks.scaling [--write] [--node N] ...`.

No rank is started and nothing is timed: bytes are those that normc's exchanges send, and times follow from counted
operations, bytes and the assumed rates, which are options. With --write, results go to docs/scaling.json and tables
into docs/distributed.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.scaling.models import MODELS, RECIPE, plan
from benchmarks.scaling.others import Priced, distmuon, duplicated, matrices, megatron, reduced
from normc.tools.report.words import size
from normc.tools.scaling.distribution import Distributed
from normc.tools.scaling.mesh import Mesh
from normc.update.program.rates import Rates

DOCS = Path(__file__).parents[2] / "docs"
RESULTS, PAGE = DOCS / "scaling.json", DOCS / "distributed.md"
BEGIN, END = "<!-- scaling -->\n", "<!-- scaling: end -->\n"
RANKS = tuple(2**power for power in range(1, 13))
SHOWN = (2, 8, 64, 512, 4096)
TP = (2, 4, 8)

SAID = f"""\
These are predictions, not measurements. `normc plan MODEL --mesh fsdp=8` and `normc.distribution(plan, "fsdp=8")` say
the same of any model; `rates=` sets other assumptions than these:

    {{assumed}}

Recipe `{RECIPE}`; float32 parameters, cut along axis 0 over all ranks (`fsdp=P`); every expert's matrix is a parameter.
A cell holds the most bytes that a rank sends, the load (most over mean), milliseconds, and the part of perfect scaling.

- All schemes are given the same operations: Newton-Schulz in the Gram form, five steps.
- normc's messages carry float32 there and fp16 back, which loses nothing; with `messages=torch.bfloat16` ("16 bits")
  both ways. Owners' work comes in windows, two of them under way at a time, whose messages hide behind work.
- DistMuon (torchtitan) runs buckets of two layers, two at a time, and hides messages behind work. Ranks beyond the
  matrices of two buckets wait; larger buckets, which it allows, would help. It can also keep stacked experts where they
  lie, which this table leaves out. Messages are of the parameters' dtype, float32.
- Megatron's layer-wise optimizer sends nothing beyond what ZeRO-1 sends, and keeps all weights on every rank: the
  larger models fit only with tensor and pipeline parallelism beside it."""
SAID_TP = """\
Tensor parallelism alone (`tp=P`, within a node), beside Megatron's two modes. `duplicated` gathers matrices in bf16 and
repeats all work; `distributed` sums Gram matrices in every iteration."""


def model(name: str, rates: Rates) -> dict[str, Any]:
    """Every scheme of one model, by number of ranks."""
    planned = plan(name)
    cut, rounded = Distributed(planned), Distributed(planned, messages=torch.bfloat16)
    found = matrices(planned.rows)
    entries = sum(row.numel for row in planned.rows)
    over: dict[str, Any] = {}
    for ranks in RANKS:
        own = cut.over(Mesh(fsdp=ranks), rates)
        lossy = rounded.over(Mesh(fsdp=ranks), rates)
        alone = own.alone_ms
        moved = (alone / 1e3 - sum(row.flops for row in own.rows) / rates.flops) / ranks
        over[str(ranks)] = {
            "normc": _entry(Priced(max(own.sent), own.load, own.ms), alone, ranks)
            | {
                "mean_sent": sum(own.sent) / ranks,
                "compute_ms": own.compute_ms,
                "messages_ms": own.communication_ms,
                "exposed_ms": own.exposed_ms,
                "windows": len(own.crossed),
            },
            "normc, 16 bits": _entry(Priced(max(lossy.sent), lossy.load, lossy.ms), alone, ranks),
            "DistMuon": _entry(distmuon(found, ranks, rates, moved), alone, ranks),
            "Megatron": _entry(megatron(found, ranks, rates, moved, entries), alone, ranks),
        }
    tensor: dict[str, Any] = {}
    for ranks in TP:
        own = cut.over(Mesh(tp=ranks), rates)
        mesh = Mesh(tp=ranks)
        lies = [mesh.lies(planned[each.name]) for each in found]
        axes = [0 if own is None else own[1][0].dim for own in lies]
        tensor[str(ranks)] = {
            "normc": _entry(Priced(max(own.sent), own.load, own.ms), own.alone_ms, ranks),
            "duplicated": _entry(duplicated(found, ranks, rates), own.alone_ms, ranks),
            "distributed": _entry(reduced(found, ranks, rates, axes), own.alone_ms, ranks),
        }
    print(f"{name}: {entries:,} parameters, {len(found):,} matrices", flush=True)
    return {"parameters": entries, "matrices": len(found), "alone_ms": round(alone, 3),
            "fsdp": over, "tp": tensor}  # fmt: skip


def _entry(priced: Priced, alone: float, ranks: int) -> dict[str, float]:
    return {"sent": priced.sent, "load": round(priced.load, 4), "ms": round(priced.ms, 4),
            "efficiency": round(alone / (ranks * priced.ms), 4)}  # fmt: skip


def tables(results: dict[str, Any]) -> str:
    """Both tables, and what they assume."""
    lines = [
        SAID.format(assumed=results["assumed"]),
        "",
        "| model | ranks | normc | normc, 16 bits | DistMuon | Megatron, layer-wise |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results["models"].items():
        for ranks in SHOWN:
            own = found["fsdp"][str(ranks)]
            cells = " | ".join(_cell(own[scheme]) for scheme in ("normc", "normc, 16 bits", "DistMuon", "Megatron"))
            lines.append(f"| {name} | {ranks:,} | {cells} |")
    lines += [
        "",
        SAID_TP,
        "",
        "| model | ranks | normc | duplicated | distributed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in results["models"].items():
        for ranks in TP:
            own = found["tp"][str(ranks)]
            cells = " | ".join(_cell(own[scheme]) for scheme in ("normc", "duplicated", "distributed"))
            lines.append(f"| {name} | {ranks:,} | {cells} |")
    return "\n".join(lines)


def _cell(entry: dict[str, float]) -> str:
    ms = entry["ms"]
    shown = f"{ms:.3g}" if ms < 999.5 else f"{ms:,.0f}"
    share = f"{entry['efficiency']:.{0 if entry['efficiency'] >= 0.1 else 1}%}"
    return f"{size(round(entry['sent']))} · {entry['load']:.2f} · {shown} ms · {share}"


def main() -> None:
    """Predict, print, and write where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--write", action="store_true", help=f"keep results in {RESULTS.name}, tables in {PAGE.name}")
    for own in dataclasses.fields(Rates):
        kind = int if own.name == "node" else float
        parser.add_argument(f"--{own.name}", type=kind, default=own.default, help=f"default: {own.default:g}")
    given = parser.parse_args()
    rates = Rates(**{own.name: getattr(given, own.name) for own in dataclasses.fields(Rates)})
    print(f"assumed: {rates}", flush=True)
    found = {name: model(name, rates) for name in given.models}
    results = {"assumed": str(rates), "rates": dataclasses.asdict(rates), "recipe": RECIPE, "models": found}
    shown = tables(results)
    print(shown)
    if given.write:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n## Predicted scaling\n\n{shown}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
