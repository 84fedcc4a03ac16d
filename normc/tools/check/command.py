"""The body of `normc check`: targets to models of several sizes, and the report to the terminal and to files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from normc.errors import NormcError
from normc.files import write_text
from normc.model.targets import load_target, read_setting, read_tare
from normc.tools.check.check import check
from normc.tools.check.coordinates import Made
from normc.tools.check.subject import seeded


def run(options: argparse.Namespace) -> int:
    """0 if nothing is wrong, else 1. NormcError for what can't be built, run or written."""
    settings = dict(map(read_setting, options.set))

    def made(**more: Any) -> Made:
        with seeded(options.seed):
            target = load_target(options.model, {**settings, **more}, weights=True)
        return target.model if target.example_inputs is None else (target.model, target.example_inputs)

    families = {along: _family(getattr(options, along), along, made) for along in ("widths", "depths")}
    if options.plot and Path(options.plot).suffix.lower() not in (".png", ".svg"):
        raise NormcError(f"{options.plot} is no plot's name", "end it in .png or .svg")
    first = made()
    model, inputs = first if isinstance(first, tuple) else (first, None)
    chosen = {
        name: value for name in ("recipe", "steps", "lr", "sharp") if (value := getattr(options, name)) is not None
    }
    report = check(
        model, inputs, options=dict(map(read_setting, options.option)), tare=dict(map(read_tare, options.tare)),
        init=options.init, real=options.real, seed=options.seed,
        widths=families["widths"], depths=families["depths"], **chosen,
    )  # fmt: skip
    if options.json == "-":
        sys.stdout.write(report.to_json())
    else:
        Console(width=options.width, highlight=False).print(report)
    if options.json and options.json != "-":
        write_text(options.json, report.to_json())
        print(f"wrote {options.json}", file=sys.stderr)
    if options.plot:
        report.plot(options.plot)
        print(f"wrote {options.plot}", file=sys.stderr)
    return 0 if report.ok else 1


def _family(fields: list[str], along: str, made: Callable[..., Made]) -> dict[int, Callable[[], Made]] | None:
    """By the first field's values, what builds the model with all fields at that place of their lists."""
    if not fields:
        return None
    columns: dict[str, list[int]] = {}
    for text in fields:
        name, equals, values = text.partition("=")
        try:
            columns[name] = [int(value) for value in values.split(",")]
        except ValueError:
            equals = ""
        if not (name and equals):
            raise NormcError(f"{text!r} gives no {along}", "write FIELD=64,128,256")
    counts = {len(values) for values in columns.values()}
    if len(counts) > 1 or min(counts) < 2:
        raise NormcError(
            f"--{along} {' '.join(fields)}: fields that change together need equally many sizes, two or more",
            f"write --{along} hidden_size=64,128 --{along} intermediate_size=256,512",
        )
    sizes = next(iter(columns.values()))
    if len(set(sizes)) < len(sizes) or min(sizes) < 1:
        raise NormcError(f"--{along} {fields[0]} has a size twice, or none", "give different sizes from 1 up")
    chosen = ({name: values[place] for name, values in columns.items()} for place in range(len(sizes)))
    return {size: _builder(made, at) for size, at in zip(sizes, chosen, strict=True)}


def _builder(made: Callable[..., Made], fields: dict[str, int]) -> Callable[[], Made]:
    return lambda: made(**fields)
