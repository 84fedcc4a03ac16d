"""The examples run, and what they write is what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT


def run(*arguments: str) -> str:
    """What `python -m arguments` prints, from the root of the tree."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_short_uses_run() -> None:
    printed = run("examples.three_lines")
    assert "with_inputs" in printed
    assert "spectral" in printed


@pytest.mark.slow
def test_the_demo_in_small_writes_what_it_says(tmp_path: Path) -> None:
    printed = run("examples.demo", "--quick", "--out", str(tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == {"loss.png", "plan.json", "update.py", "summary.json"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name in ("adamw", "muon", "normc"):
        assert f"{summary[f'{name}_final']:.4f}" in printed
        assert summary[f"{name}_final"] < 5.0  # a uniform guess over 256 bytes is 5.55
    assert summary["export_difference"] <= 1e-6
    assert "import normc" not in (tmp_path / "update.py").read_text()
    assert json.loads((tmp_path / "plan.json").read_text())
