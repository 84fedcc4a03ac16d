"""normc imports no integration, and no host's library."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import torch
import normc
normc.compile(torch.nn.Linear(2, 2), torch.zeros(1, 2))
found = [name for name in sys.modules if name.startswith(("normc.integrations", "accelerate", "lightning", "timm"))]
assert not found, found
"""


def test_compile_imports_no_host() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
