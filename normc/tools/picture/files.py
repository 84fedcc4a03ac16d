"""The files that `normc plan` writes: the plan itself, and its pictures."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from normc.files import write_text

if TYPE_CHECKING:
    from normc.plans.plan import NormPlan


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add the options that name these files."""
    parser.add_argument("--json", metavar="FILE", help="save the plan; - writes it to standard output and nothing else")
    parser.add_argument("--html", metavar="FILE", help="draw the plan: a page for a browser, which needs no network")
    parser.add_argument("--svg", metavar="FILE", help="draw the plan as it is on that page first, for papers")


def write_files(plan: NormPlan, options: argparse.Namespace) -> None:
    """Write those that were asked for, and say so. NormcError where one can't be written."""
    for path, written in ((options.json, plan.to_json), (options.html, plan.to_html), (options.svg, plan.to_svg)):
        if path:
            write_text(path, written())
            print(f"wrote {path}", file=sys.stderr)
