"""What a measurement was made on."""

from __future__ import annotations

import platform
from pathlib import Path


def machine() -> str:
    """The processor's name, as Linux knows it; its architecture elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
