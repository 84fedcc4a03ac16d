"""Kernels compile for the GPU that they are written for, on a machine that has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from normc.recipe.by_name import recipes

pytest.importorskip("triton")
OTHERS = [
    ["auto", "muon, output=shampoo", "scion-light", "auto:int8"],
    *(sorted(recipes)[start::4] for start in range(4)),
]
BUNCHES = [["adamw", "adamw:int8"], *(pytest.param(bunch, marks=pytest.mark.slow) for bunch in OTHERS)]


@pytest.mark.parametrize("bunch", BUNCHES)
def test_every_kernel_compiles_for_hopper(bunch: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "ignore", "-m", "tests.update.kernels.compiling", *bunch]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    compiled = {line.split()[0] for line in done.stdout.splitlines()}
    assert "find_nonfinite" in compiled
    assert "before_adamw_mixed" in compiled or "auto" not in bunch
