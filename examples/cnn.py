"""A small ResNet on 28x28 images, with AdamW and with normc: `python -m examples.cnn [--quick]`. Results in out/cnn."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from examples.comparison import Settings, compare
from workloads.tasks import resnet_task

SETTINGS = Settings(
    adamw_lr=6e-3,
    adamw_decay=0.1,
    adamw_beta2=0.99,
    adamw_clip=None,
    adamw_warmup=0.2,
    muon_lr=None,  # it takes no convolutions
    normc_lr=0.8,
    normc_options=(),
    warmup=0.2,
)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a toy of it, in seconds: shows that it runs, no more")
    parser.add_argument("--out", type=Path, default=Path("out/cnn"))
    arguments = parser.parse_args()
    compare(resnet_task(quick=arguments.quick), SETTINGS, arguments.out, Console())


if __name__ == "__main__":
    main()
