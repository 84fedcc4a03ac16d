"""GPT-2 on the Bible, with AdamW, torch's Muon and normc: `python -m examples.demo [--quick]`. Results in out/demo."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from examples.comparison import Settings, compare
from workloads.tasks import gpt2_task

SETTINGS = Settings(
    adamw_lr=6e-3,
    adamw_decay=0.1,
    adamw_beta2=0.99,
    adamw_clip=1.0,
    adamw_warmup=0.3,
    muon_lr=1e-2,
    normc_lr=0.8,
    normc_options=(),
    warmup=0.1,
)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a toy of it, in seconds: shows that it runs, no more")
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    arguments = parser.parse_args()
    compare(gpt2_task(quick=arguments.quick), SETTINGS, arguments.out, Console())


if __name__ == "__main__":
    main()
