"""What `normc check` can be told. It imports nothing heavy: `normc --help` reads it too."""

from __future__ import annotations

import argparse
from typing import Any


def add_check(commands: Any, target: str) -> None:
    """Add the command to argparse's `commands`; `target` says what a target may be."""
    parser = commands.add_parser("check", help="measure a model: gains, one step, activations over width and depth")
    parser.set_defaults(run=_run)
    parser.add_argument("model", metavar="TARGET", help=target)
    parser.add_argument("--recipe", metavar="NAME", help="see normc recipes")
    repeated = {
        "--option": ("NAME=VALUE", "an option of the recipe"),
        "--set": ("NAME=VALUE", "a field of the model's configuration, or an argument"),
        "--tare": ("GLOB=MASS", "mass that all rows which match have together"),
        "--widths": ("FIELD=64,128,256", "check activations over the width; again for fields that change together"),
        "--depths": ("FIELD=2,4,8", "check activations over the depth; likewise"),
    }
    for name, (form, text) in repeated.items():
        parser.add_argument(name, action="append", default=[], metavar=form, help=text)
    parser.add_argument("--init", action="store_true", help="start from the weights that normc.init_ gives")
    parser.add_argument(
        "--real", nargs="?", type=float, const=True, default=False, metavar="LR",
        help="measure after one true step on the model's own loss, at the recipe's lr or this one",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, metavar="K", help="steps of those two (default: 3)")
    parser.add_argument("--lr", type=float, metavar="X", help="their learning rate (default: 0.02)")
    parser.add_argument(
        "--sharp", type=int, metavar="N", help="power iterations for worst-case gains (default: 15); 0 is quick"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and probes (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="save all numbers; - writes them to standard output, alone")
    parser.add_argument("--plot", metavar="FILE", help="draw the check, as .png or .svg")
    parser.add_argument("--width", type=int, metavar="N", help="columns of the tables (default: the terminal's)")


def _run(options: argparse.Namespace) -> int:
    from normc.tools.check.command import run

    return run(options)
