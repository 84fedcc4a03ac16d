"""The shortest uses of normc, each of which runs: `python -m examples.three_lines`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import normc


def small_model() -> nn.Module:
    """An embedding, a hidden layer, a head: 16 tokens in, 16 classes out."""
    return nn.Sequential(nn.Embedding(16, 32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.Linear(32, 16))


def with_inputs(ids: Tensor) -> None:
    """One call: the model is traced on the example, and the optimizer is ready."""
    model = small_model()
    opt = normc.compile(model, ids)
    functional.cross_entropy(model(ids), ids).backward()
    opt.step()


def without_inputs(ids: Tensor) -> None:
    """No example: the model is traced on its first real forward, and the plan is there before the first step."""
    model = small_model()
    opt = normc.compile(model)
    functional.cross_entropy(model(ids), ids).backward()
    print(opt.plan.hash)
    opt.step()


def scheduled(ids: Tensor) -> None:
    """A learning rate of one's own, and its schedule: a tenth of the steps up, then straight down to zero."""
    model = small_model()
    opt = normc.compile(model, ids, lr=0.4)
    rate = normc.schedule(opt, 20)
    for _ in range(20):
        functional.cross_entropy(model(ids), ids).backward()
        opt.step()
        opt.zero_grad()
        rate.step()
    print(f"loss {functional.cross_entropy(model(ids), ids):.3f}")


def plan_only(ids: Tensor) -> None:
    """The plan alone, here of a model that has no weights: nothing is generated, nothing is allocated."""
    with torch.device("meta"):
        model = small_model()
    print(normc.plan(model, ids))


def overridden(ids: Tensor) -> None:
    """Say it otherwise: the head gets the norm that it is told, and the plan says that you said so."""
    model = small_model()
    plan = normc.plan(model, ids).override("4.weight", norm="spectral")
    opt = normc.compile(model, plan=plan)
    print(opt.plan["4.weight"].norm)


def exported(ids: Tensor) -> None:
    """One file that needs torch alone: `from update import Optimizer; Optimizer(model.named_parameters(), lr=2e-2)`."""
    opt = normc.compile(small_model(), ids)
    with tempfile.TemporaryDirectory() as folder:
        normc.export(opt, Path(folder) / "update.py")
        print((Path(folder) / "update.py").read_text().splitlines()[0])


def main() -> None:
    """Run each."""
    torch.manual_seed(0)
    ids = torch.randint(0, 16, (8,))
    for example in (with_inputs, without_inputs, scheduled, plan_only, overridden, exported):
        print(f"\n{example.__name__}: {example.__doc__}")
        example(ids)


if __name__ == "__main__":
    main()
