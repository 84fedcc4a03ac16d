"""Does the exported file do what normc does? Both take the same five steps, the file in a process that has no normc."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from workloads.tasks import Task

STEPS = 5


def difference(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> float:
    """The largest absolute difference between any two weights after five steps from the same state and gradients.

    `folder` holds the exported update.py. `model` and `optimizer` move on by the five steps.
    """
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    case = folder / "case.pt"
    state = optimizer.state_dict()
    gradients = []
    torch.save({"weights": before, "state": state}, case)  # now: the steps below change the state's tensors in place
    for step in range(STEPS):
        task.loss(model, task.batch(task.steps + step)).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
    torch.save(torch.load(case) | {"gradients": gradients}, case)
    script = Path(__file__).with_name("run_exported.py")
    subprocess.run([sys.executable, "-I", str(script), str(folder.resolve())], check=True)
    theirs = torch.load(folder / "result.pt")
    case.unlink()
    (folder / "result.pt").unlink()
    return max(float((p.detach() - theirs[name]).abs().max()) for name, p in model.named_parameters())
