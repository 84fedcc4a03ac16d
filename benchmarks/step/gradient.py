"""The spectrum of a real gradient, for benchmarks.step: `python -m benchmarks.step.gradient` writes gradient.json anew.

After 100 of 450 steps of AdamW on the demo's GPT-2, the gradient of a middle layer's first MLP matrix, 160 x 640.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

import normc

STEPS, LENGTH, LR, PARAMETER = 100, 450, 3e-3, "transformer.h.2.mlp.c_fc.weight"
FILE = Path(__file__).parent / "gradient.json"


def main() -> None:
    """Train, decompose, write."""
    from workloads.tasks import gpt2_task
    from workloads.training import adamw

    task = gpt2_task()
    model = task.model()
    opt = adamw(model, LR)
    rates = normc.schedule(opt, LENGTH)
    for step in range(STEPS + 1):
        opt.zero_grad()
        task.loss(model, task.batch(step)).backward()
        if step < STEPS:
            opt.step()
            rates.step()
    gradient = dict(model.named_parameters())[PARAMETER].grad
    assert gradient is not None
    values = torch.linalg.svdvals(gradient.double())
    shown = [float(f"{value:.4g}") for value in (values / values[0]).tolist()]
    FILE.write_text(json.dumps({"of": f"{task.title}, {PARAMETER}, step {STEPS}", "values": shown}) + "\n")
    print(f"{len(shown)} values from 1 to {shown[-1]:.1e}; median {shown[len(shown) // 2]:.1e}")


if __name__ == "__main__":
    main()
