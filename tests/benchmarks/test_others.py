"""The sweep over other libraries: what it says of a model that is right, doesn't plan, doesn't build, or breaks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.sweep import others, report, shelf
from benchmarks.sweep.libraries.example import Draw, Example, of

KEPT: list[Tensor] = []


class Kept(nn.Module):
    """It keeps what it computed first, and reads that ever after: a plan leaves a fake tensor there."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if not KEPT:
            KEPT.append(x.mean(0))
        return self.head(x + KEPT[0])


class Refusing(nn.Linear):
    """A forward that no tracer gets through."""

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor:
            raise TypeError("plain tensors alone")
        return super().forward(x)


def fails(draw: Draw) -> Example:
    raise ValueError("no such setting")


MODELS = {
    "right": lambda draw: of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)),
    "kept": lambda draw: of(Kept(), torch.randn(3, 4)),
    "refusing": lambda draw: of(Refusing(4, 2), torch.randn(3, 4)),
    "fails": fails,
}


@pytest.fixture
def shelf_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    KEPT.clear()
    file = SimpleNamespace(MODELS=MODELS, PACKAGES=("torch",), MODULES=("torch",))
    monkeypatch.setattr(others, "_file", lambda name: file)
    monkeypatch.setattr(others, "_files", lambda: ["four"])
    monkeypatch.setattr(others, "runs_alone", lambda name, training: None)


@pytest.mark.usefixtures("shelf_of_four")
def test_what_is_said_of_each_model() -> None:
    assert others.names(2)[:2] == ["four/right#0", "four/right#1"]
    found: dict[str, Any] = {name: others.measure(f"four/{name}#0") for name in MODELS}
    assert {name: one["status"] for name, one in found.items()} == {
        "right": "planned", "kept": "broken", "refusing": "failed", "fails": "not built",
    }  # fmt: skip
    assert found["right"]["rows"] == 4
    assert (found["right"]["lost"], found["right"]["idle"], found["right"]["disagreed"]) == ({}, [], [])
    assert found["right"]["said"][0] == "0.weight  (8, 4)  input  oi  spectral"
    assert "no such setting" in found["fails"]["error"]


@pytest.mark.usefixtures("shelf_of_four")
def test_the_page_adds_up_and_names(tmp_path: Path) -> None:
    report.note(tmp_path, "libraries", json.dumps(others.versions()), 4)
    lines = [{"name": f"four/{name}#0", **others.measure(f"four/{name}#0")} for name in ("right", "refusing", "fails")]
    lines[0] |= {"lost": {"eval": ["2.weight"]}}
    (tmp_path / "libraries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shelf.write(tmp_path)
    page = (tmp_path / "libraries.md").read_text()
    assert "| 3 | 1 | 1 | 0 | 0 | 4 | 1 | 0 | 0 | 0 |" in page
    assert "| four/right#0 | eval | 1 | 2.weight |" in page
    assert "| four/refusing#0 | failed |" in page
    assert "| four/fails#0 | not built | ValueError: no such setting |" in page
    assert len(json.loads((tmp_path / "libraries.json").read_text())["models"]) == 3
