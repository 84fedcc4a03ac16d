"""Runs FOLDER/update.py on FOLDER/case.pt (weights, state, gradients) where normc can't be imported; writes result.pt.

A program of its own: `python -I run_exported.py FOLDER`. It needs torch alone.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import torch


class NoNormc(importlib.abc.MetaPathFinder):
    """Makes `import normc` fail as it does where normc isn't installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """None for anything but normc."""
        if name.partition(".")[0] == "normc":
            raise ModuleNotFoundError("normc is kept out, to show that an exported update doesn't need it", name=name)
        return None


def main() -> None:
    """Take one step for each set of gradients."""
    sys.meta_path.insert(0, NoNormc())
    sys.dont_write_bytecode = True  # the folder is the reader's
    folder = Path(sys.argv[1])
    spec = importlib.util.spec_from_file_location("update", folder / "update.py")
    assert spec is not None
    assert spec.loader is not None
    update = importlib.util.module_from_spec(spec)
    sys.modules["update"] = update
    spec.loader.exec_module(update)
    case = torch.load(folder / "case.pt")
    weights = {name: torch.nn.Parameter(weight) for name, weight in case["weights"].items()}
    optimizer = update.Optimizer(list(weights.items()), lr=case["state"]["param_groups"][0]["lr"])
    optimizer.load_state_dict(case["state"])
    for gradients in case["gradients"]:
        for name, gradient in gradients.items():
            weights[name].grad = gradient
        optimizer.step()
        optimizer.zero_grad()
    torch.save({name: weight.detach() for name, weight in weights.items()}, folder / "result.pt")


if __name__ == "__main__":
    main()
