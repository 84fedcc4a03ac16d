"""How long a plan takes: `python -m benchmarks.planning [zoo|depth|largest] ...`, all three by default.

zoo      every model of tests/zoo, after one plan to warm up; the slowest ones are printed
depth    a Llama of 4096 features on meta, from 2 to 256 layers: seconds against graph nodes, and a plot
largest  a mixture of experts with 500 layers and 1.03e12 parameters on meta, in a process of its own: seconds, memory

Writes docs/planning.json and docs/planning.png, which docs/planning.md shows.
"""

from __future__ import annotations

import datetime as dt
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import normc
from normc.model.trace.frontend import trace
from normc.model.trace.own_inputs import own_inputs
from normc.model.weightless import weightless
from workloads.machine import machine

DOCS = Path(__file__).parents[1] / "docs"
DEPTHS = (2, 4, 8, 16, 32, 64, 128, 256)
LARGEST = {
    "num_hidden_layers": 500, "hidden_size": 4096, "moe_intermediate_size": 2560, "num_experts": 64,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_experts_per_tok": 8,
}  # fmt: skip


def zoo() -> dict[str, Any]:
    """Seconds of `normc.plan` for every model of the zoo, and how long building it took."""
    from tests.zoo.models import CASES

    normc.plan(CASES["nano-gpt"].build(), CASES["nano-gpt"].inputs())
    seconds = {}
    for name in sorted(CASES):
        model, inputs = CASES[name].build(), CASES[name].inputs()
        start = time.perf_counter()
        normc.plan(model, inputs)
        seconds[name] = round(time.perf_counter() - start, 3)
        print(f"{name:32} {seconds[name]:.2f} s", flush=True)
    slowest = sorted(seconds, key=lambda name: -seconds[name])[:10]
    print(f"{len(seconds)} models, median {statistics.median(seconds.values()):.2f} s; slowest:")
    for name in slowest:
        print(f"  {name:32} {seconds[name]:.2f} s")
    return {"models": len(seconds), "median": statistics.median(seconds.values()),
            "slowest": {name: seconds[name] for name in slowest}}  # fmt: skip


def depth() -> list[dict[str, Any]]:
    """Nodes, parameters and the best of three timings at each depth."""
    import transformers

    found = []
    for layers in DEPTHS:
        with weightless():
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=layers))
        inputs = own_inputs(model)
        assert inputs is not None
        nodes = len(trace(model, *inputs).graph.nodes)
        timings = []
        for _ in range(3):
            gc.collect()
            start = time.perf_counter()
            normc.plan(model, inputs[1])
            timings.append(time.perf_counter() - start)
        entry = {"layers": layers, "nodes": nodes, "seconds": round(min(timings), 3)}
        print(
            f"{layers:4} layers {nodes:6} nodes {min(timings):7.2f} s {min(timings) / nodes * 1e3:.2f} ms/node",
            flush=True,
        )
        found.append(entry)
    return found


def largest() -> dict[str, Any]:
    """Plan the 1.03e12-parameter model in a new process."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.planning", "--largest-here"], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    print(f"{found['parameters']:.3g} parameters in {found['layers']} layers: {found['seconds']:.0f} s to build and "
          f"plan, {found['gigabytes']:.2f} GB at most")  # fmt: skip
    return found


def _largest_here() -> None:
    start = time.perf_counter()
    import transformers

    with weightless():
        model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**LARGEST))
    plan = normc.plan(model)
    assert not any(row.fallback for row in plan.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"parameters": sum(row.numel for row in plan.rows), "layers": LARGEST["num_hidden_layers"],
                      "seconds": round(time.perf_counter() - start, 1), "gigabytes": round(peak, 2)}))  # fmt: skip


def plot(entries: list[dict[str, Any]], path: Path) -> None:
    """Seconds against nodes, with the straight line through the origin and the largest point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4), dpi=144)
    nodes, seconds = [e["nodes"] for e in entries], [e["seconds"] for e in entries]
    slope = seconds[-1] / nodes[-1]
    axes.loglog(nodes, [slope * n for n in nodes], color="0.7", lw=1, label=f"{slope * 1e3:.2f} ms a node")
    axes.loglog(nodes, seconds, "o-", lw=1.4, label="normc.plan, Llama with 2 to 256 layers")
    axes.set_xlabel("nodes of the graph")
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main(arguments: list[str]) -> None:
    """Run the parts asked for and put them into docs/planning.json."""
    if arguments == ["--largest-here"]:
        return _largest_here()
    parts = {"zoo": zoo, "depth": depth, "largest": largest}
    path = DOCS / "planning.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in arguments or list(parts):
        if name not in parts:
            raise SystemExit(f"no part is called {name!r}; known: {', '.join(parts)}")
        results[name] = parts[name]()
    results |= {"machine": machine(), "threads": torch.get_num_threads(), "torch": torch.__version__,
                "date": dt.date.today().isoformat()}  # fmt: skip
    path.write_text(json.dumps(results, indent=1) + "\n")
    if "depth" in results:
        plot(results["depth"], DOCS / "planning.png")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
