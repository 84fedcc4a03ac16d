"""Every Python block of README and docs runs, page by page, or is listed here with the reason why it can't."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import normc
from tests.house.tree import ROOT
from tests.zoo.case import tokens
from tests.zoo.nano_gpt import NanoGPT

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
# Pages whose blocks need what no test has; they are compiled, not run.
NOT_RUN = {
    "distributed.md": "several processes: tests/distributed runs the same",
    "hosts.md": "each host's own trainer: tests/integrations runs the same",
    "rules.md": "an op of one's own: tests/model/ops/test_user_rule.py runs it",
    "export.md": "a file that was exported: tests/update/plain runs such files",
    "finetuning.md": "a model that was trained before",
    "training.md": "a writer of logs",
    "cbs.md": "a training run for each batch size",
}


def pages() -> list[Path]:
    """README and all pages with Python blocks."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if BLOCK.search(page.read_text())]


class Loss(dict[str, Any]):
    """What a model of transformers returns: `.loss`, and the rest by name."""

    @property
    def loss(self) -> torch.Tensor:
        return self["loss"]


class Named(nn.Module):
    """A small model with the names that pages use."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.tok = nn.Linear(8, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> Loss:
        """x: [batch, 8]."""
        x = self.tok(x)
        for block in self.blocks:
            x = block(x).relu()
        logits = self.head(x)
        return Loss(loss=logits.square().mean(), logits=logits)


def given(page: str) -> dict[str, Any]:
    """What pages take for granted: a model, data, an optimizer."""
    torch.manual_seed(0)
    model, inputs = Named(), torch.randn(4, 8)
    names: dict[str, Any] = {
        "torch": torch, "nn": nn, "normc": normc, "model": model, "inputs": inputs, "example_inputs": inputs,
        "loader": [{"x": inputs}] * 3, "build": Named, "opt": normc.compile(model, inputs),
    }  # fmt: skip
    if page == "gains.md":
        names |= {"small": NanoGPT(width=64), "example_inputs": tokens()}
    return names


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BLOCK.findall(page.read_text())
    for block in blocks:
        compile(block, page.name, "exec", dont_inherit=True)
    if page.name in NOT_RUN:
        return
    monkeypatch.chdir(tmp_path)
    names = given(page.name)
    for number, block in enumerate(blocks):  # as files: code is generated from the source of norms and stages
        names = names | vars(imported(tmp_path / f"page_{page.stem}_{number}.py", block, names, monkeypatch))


def imported(path: Path, block: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The block as a module that begins with `names`."""
    path.write_text(block)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update({name: value for name, value in names.items() if not name.startswith("__")})
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def test_pages_that_are_not_run_are_pages() -> None:
    assert set(NOT_RUN) <= {page.name for page in pages()}
