"""The command `normc`: plan, export, check, recipes, diff, tune. A mistake is one message and exit status 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from normc.errors import NormcError
from normc.tools.check.options import add_check
from normc.tools.given import load_plan, read_override, read_size
from normc.tools.picture.files import add_files, write_files
from normc.version import VERSION

if TYPE_CHECKING:
    from rich.console import Console

    from normc.plans.plan import NormPlan
    from normc.tools.scaling.table import Distribution

_TARGET = "hf:gpt2, timm:resnet50, package.module:factory, path/to/file.py:factory, or a saved plan.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 if `diff` or `check` found something, 2 for a mistake.

    NORMC_DEBUG=1 shows the traceback of a mistake.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except NormcError as mistake:
        if os.environ.get("NORMC_DEBUG") == "1":
            raise
        print(f"normc: {mistake}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has gone (normc plan ... | head): the interpreter's last flush must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("normc: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="normc", description="A compiler for optimizers: plans and exports update steps."
    )
    parser.add_argument("--version", action="version", version=f"normc {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    plan = commands.add_parser("plan", help="infer and show the plan of a model")
    _add_target(plan)
    plan.add_argument(
        "--explain", action="append", default=[], metavar="GLOB", help="show all reasons of these rows instead"
    )
    plan.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="HEURISTIC",
        help="show what a rule by name and number of axes would get wrong instead: muon-ndim, muon-names, "
        "torch-example, timm, deepspeed, or all",
    )
    plan.add_argument(
        "--mesh",
        metavar="AXES",
        help="say how the step is shared out over ranks, and what it takes there: fsdp=8, hsdp=2x4, dp=8, fsdp=4,tp=2",
    )
    plan.add_argument(
        "--brief", action="store_true", help="a line for each role and norm, then the rows that someone should look at"
    )
    plan.add_argument(
        "--diff",
        metavar="PLAN.json",
        help="show instead what differs from that saved plan, and what it does to a step; exit status 1 if it differs",
    )
    add_files(plan)
    plan.add_argument("--width", type=int, metavar="N", help="columns of the table (default: the terminal's)")
    plan.set_defaults(run=_plan)

    export = commands.add_parser("export", help="write the update step as a Python file that needs torch alone")
    _add_target(export)
    export.add_argument(
        "--target", dest="device", default="cpu", metavar="DEVICE", help="cpu or cuda:sm_90 (default: cpu)"
    )
    export.add_argument("-o", "--output", default="update.py", metavar="FILE", help="default: update.py")
    export.add_argument("--plain", action="store_true", help="a short file to read and keep: torch alone, no runtime")
    export.add_argument("--passes", action="store_true", help="show what each rewrite did, why, and what it saves")
    export.add_argument(
        "--without", action="append", default=[], metavar="REWRITE", help="leave out a rewrite, by its name"
    )
    export.set_defaults(run=_export)

    add_check(commands, _TARGET.removesuffix(", or a saved plan.json"))

    recipes = commands.add_parser("recipes", help="list the recipes, their formulas, state and sources")
    recipes.add_argument("--show", metavar="NAME", help="print the stages of one")
    recipes.add_argument(
        "--polynomials", nargs="?", const="all", metavar="NAME", help="what Newton-Schulz polynomials guarantee"
    )
    recipes.add_argument("--width", type=int, metavar="N", help=argparse.SUPPRESS)
    recipes.set_defaults(run=_recipes)

    diff = commands.add_parser("diff", help="compare two saved plans; exit status 1 if they differ")
    diff.add_argument("first", metavar="a.json")
    diff.add_argument("second", metavar="b.json")
    diff.set_defaults(run=_diff)

    tune = commands.add_parser("tune", help="keep the tiles of matrix products that are fastest on this GPU")
    tune.add_argument("--seconds", type=float, default=60.0, metavar="S", help="about how long (default: 60)")
    tune.set_defaults(run=_tune)
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="TARGET", help=_TARGET)
    parser.add_argument("--recipe", metavar="NAME", help="see normc recipes")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the recipe")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the model's configuration, or an argument",
    )
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="GLOB:norm=NAME,scale=X,mass=X,weight_decay=X",
        help="another norm, scale or mass; weight_decay is a factor of the group's",
    )
    parser.add_argument(
        "--tare", action="append", default=[], metavar="GLOB=MASS", help="mass that all rows which match have together"
    )
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help="the plan of the same model at another size, not traced again: d_model=4096, n_layer=48",
    )
    parser.add_argument("--heads", action="store_true", help="make every attention head a block with its own norm")
    parser.add_argument(
        "--frontend", metavar="NAME", help="what runs the model's code: recorder (default), or export for torch.export"
    )
    parser.add_argument("--strict", action="store_true", help="fail if a parameter isn't inferred, or gets no gradient")


def _found(options: argparse.Namespace) -> NormPlan:
    """The plan that a command speaks of: inferred from a model, or read from a file; then its overrides."""
    found = (
        _saved(options.model, options)
        if options.model.endswith(".json") and ":" not in options.model
        else _inferred(options)
    )
    if options.at:
        found = found.at(dict(map(read_size, options.at)))
    for text in options.override:
        pattern, change = read_override(text)
        found = found.override(pattern, **change)
    return found


def _inferred(options: argparse.Namespace) -> NormPlan:
    from normc.compiler import plan
    from normc.model.targets import load_target, read_setting, read_tare
    from normc.model.trace.own_inputs import own_inputs

    target = load_target(options.model, dict(map(read_setting, options.set)))
    if target.example_inputs is None and own_inputs(target.model) is None:
        raise NormcError(
            f"{options.model} made a {type(target.model).__name__}, which doesn't say what its forward takes",
            "let the factory return (model, example_inputs)",
        )
    chosen = {name: value for name in ("recipe", "frontend") if (value := getattr(options, name)) is not None}
    given = dict(map(read_setting, options.option))
    return plan(
        target.model, target.example_inputs, options=given, tare=dict(map(read_tare, options.tare)),
        heads=options.heads, strict=options.strict, **chosen,
    )  # fmt: skip


def _saved(path: str, options: argparse.Namespace) -> NormPlan:
    if options.recipe or options.option or options.set or options.tare or options.heads or options.frontend:
        raise NormcError(
            f"{path} is a plan already: its recipe, sizes, masses and blocks are fixed",
            "give --override, or the model again",
        )
    plan = load_plan(path)
    if options.strict:
        from normc.plans.asked import refuse_lost

        refuse_lost(plan)
    return plan


def _console(width: int | None, file: TextIO | None = None) -> Console:
    from rich.console import Console

    if width is not None and not 40 <= width <= 10000:
        raise NormcError(f"a table can't be {width} columns wide", "give --width 40 or more")
    return Console(width=width, file=file, highlight=False)


def _plan(options: argparse.Namespace) -> int:
    console = _console(options.width)
    plan = _found(options)
    if options.json == "-":
        sys.stdout.write(plan.to_json())
        return 0
    write_files(plan, options)
    if options.diff:
        return _compared(load_plan(options.diff), plan, options.width)
    over = _over_ranks(plan, options.mesh)
    if not options.explain and not options.against:
        print(plan.text(options.width, color=console.is_terminal and not console.no_color, brief=options.brief))
    if over is not None and not options.explain:
        print(over.footer(options.width))
    if options.against:
        from normc.tools.report.against import against, heuristics

        names = [name for given in options.against for name in (heuristics if given == "all" else [given])]
        console.print(against(plan, names))
    if options.explain:
        from normc.tools.report.explain import explained_with

        console.print(explained_with(plan, options.explain, lambda row: [] if over is None else over.explained(row)))
    return 0


def _over_ranks(plan: NormPlan, mesh: str | None) -> Distribution | None:
    if mesh is None:
        return None
    from normc.tools.scaling.distribution import distribution

    return distribution(plan, mesh)


def _export(options: argparse.Namespace) -> int:
    from normc.exporting import export

    plan = _found(options)
    if options.passes:
        from normc.pipeline import program_of
        from normc.tools.report.passes import passes
        from normc.update.program.build import build_of

        _console(None).print(passes(program_of(plan, build_of(options.device, options.without))), "")
    export(plan, options.output, options.device, options.without, plain=options.plain)
    print(f"wrote {options.output}: from {Path(options.output).stem} import Optimizer", file=sys.stderr)
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from normc.tools.report import polynomials, recipes

    if options.polynomials:
        shown = polynomials.show(options.polynomials) if options.polynomials != "all" else polynomials.table()
    else:
        shown = recipes.show(options.show) if options.show else recipes.listing()
    _console(options.width).print(shown)
    return 0


def _tune(options: argparse.Namespace) -> int:
    from normc.tools.tuning import tune

    tune(options.seconds, print)
    return 0


def _diff(options: argparse.Namespace) -> int:
    return _compared(load_plan(options.first), load_plan(options.second), None)


def _compared(first: NormPlan, second: NormPlan, width: int | None) -> int:
    from normc.tools.report.changes import changes

    console = _console(width)
    if not console.is_terminal and width is None:
        console.width = 10_000  # a pipe has no edge
    console.print(changes(first, second), soft_wrap=True)
    return 0 if first.hash == second.hash else 1
