"""Whatever comes in, from files, callers and command lines: a result or one NormcError, and none of it is run."""

from __future__ import annotations

import builtins
import contextlib
import copy
import functools
import io
import json
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import nn

import normc
from normc.cli import main
from normc.compiler import request
from normc.errors import NormcError
from normc.exporting import exported
from normc.pipeline import update_of
from normc.plans import document
from normc.plans.plan import NormPlan
from normc.recipe.by_name import recipes
from tests.door.hostile import NAMES, anything, data, mutate, names, plain
from tests.plans.sample import sample

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
INPUT = torch.ones(2, 6)
PLANS = {name: normc.plan(MODEL, INPUT, recipe=name) for name in ("auto", "muon", "muon, output=adamw", "scion")}
TEXTS = [*(plan.to_json() for plan in PLANS.values()), sample().to_json()]
OPT = normc.compile(MODEL, plan=PLANS["muon"], lr=0.1, compile=False)
MODEL(INPUT).square().sum().backward()
OPT.step()
STATE = OPT.state_dict()

Fuzz = Callable[[Callable[..., None]], Callable[..., None]]
# By the name of its test: a function that makes the check of so many inputs; of a seed, or the same ones every time.
CHECKS: dict[str, Callable[[int, int | None], Callable[..., None]]] = {}
RUNS: Counter[str] = Counter()


def fuzz(**strategies: st.SearchStrategy[Any]) -> Fuzz:
    """The same test twice: some examples always, many in the slow tests; tests/door/fuzzing.py runs any number."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def sized(examples: int, chosen: int | None = None) -> Callable[..., None]:
            same = types.FunctionType(test.__code__, test.__globals__, test.__name__, None, test.__closure__)
            same.__annotations__ = test.__annotations__
            how = settings(
                max_examples=examples,
                deadline=None,
                suppress_health_check=checks,
                derandomize=chosen is None,
                database=None,
            )

            @functools.wraps(same)
            def counted(**drawn: Any) -> None:
                RUNS[test.__name__] += 1
                same(**drawn)

            made = how(given(**strategies)(counted))
            return made if chosen is None else seed(chosen)(made)

        CHECKS[test.__name__] = sized
        quick, many = sized(30), sized(150)
        cases = [pytest.param(quick, id="quick"), pytest.param(many, id="many", marks=pytest.mark.slow)]

        @pytest.mark.parametrize("run", cases)
        def both(run: Callable[..., None]) -> None:
            run()

        return both

    return decorate


@contextlib.contextmanager
def alarmed() -> Iterator[None]:
    """Text that calls `alarm()` raises an error that nothing catches, if it is run."""

    def alarm() -> None:
        raise BaseException("text of the input was run")

    builtins.alarm = alarm  # type: ignore[attr-defined]
    yield
    del builtins.alarm  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Every check runs with the alarm."""
    with alarmed():
        yield


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A plan's document with a few mutations; its hashes are made again, as an attacker can, where it is a plan."""
    whole = json.loads(draw(st.sampled_from(TEXTS)))
    for _ in range(draw(st.integers(1, 3))):
        with suppress(IndexError):
            mutate(draw, whole, data)
    try:
        text = json.dumps(whole)
        contents, _ = document.read(text)
        plan = NormPlan(*contents[:5], saved=contents.sharpness)
        return plan.to_json()
    except (NormcError, ValueError):
        return json.dumps(whole) if draw(st.booleans()) else TEXTS[0]


@fuzz(text=documents())
def test_plans(text: str) -> None:
    with suppress(NormcError):
        plan = NormPlan.from_json(text)
        plan.text(100)
        run(plan)


def run(plan: NormPlan) -> None:
    """Generate the plan's code, and that of its export, and execute both."""
    text = update_of(plan).text
    source = exported(text)
    compile(source, "exported", "exec")
    exec(compile(text.module, "<fuzz>", "exec"), types.ModuleType("fuzz").__dict__)


@fuzz(name=names, alias=names, label=names, model=names)
def test_names_stay_inert_in_generated_code(name: str, alias: str, label: str, model: str) -> None:
    plan = PLANS["muon"]
    first, *rest = plan.rows
    with suppress(NormcError):
        run(replace(plan, model=model, rows=(replace(first, name=name, aliases=(alias,)), *rest)))


@fuzz(value=st.data())
def test_checkpoints(value: st.DataObject) -> None:
    state = copy.deepcopy(STATE)
    for _ in range(value.draw(st.integers(1, 3))):
        with suppress(IndexError):
            mutate(value.draw, state, anything)
    opt = copy.deepcopy(OPT)
    with suppress(NormcError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opt.load_state_dict(state, strict=value.draw(st.booleans()))
        for parameter in opt.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        opt.step()


_part = st.sampled_from([*recipes, "output", "hidden", "*", "*.weight", "=", ",", "", " ", "x"]) | names


@fuzz(words=st.lists(_part | st.sampled_from([", ", "=", ","]), max_size=6))
def test_recipes(words: list[str]) -> None:
    text = "".join(words)
    with suppress(NormcError):
        found = request(text, None, None).recipe
        replace(PLANS["muon"], recipe=found.name)
        found.seeing(PLANS["muon"].rows)


_option = st.sampled_from(sorted({key for name in recipes for key in recipes[name].known})) | names


@fuzz(
    recipe=st.sampled_from([*recipes, "muon, output=adamw"]),
    options=st.dictionaries(_option, plain, max_size=2) | anything,
)
def test_options(recipe: str, options: Any) -> None:
    with suppress(NormcError):
        configured = request(recipe, options, None).recipe
        for row in PLANS["muon"].rows:
            chosen = configured.seeing(PLANS["muon"].rows).geometry(row)
            configured.state_bytes(replace(row, norm=chosen.norm, rule=chosen.rule))


_glob = st.sampled_from(["*", "0.*", "*.weight", "[", "[!0]*", "0.weight"]) | names
_change = st.dictionaries(st.sampled_from(["norm", "scale", "mass", "weight_decay"]) | names, plain, max_size=3)


@fuzz(
    overrides=st.dictionaries(_glob, names | _change | anything, max_size=2) | anything, plan=st.sampled_from([*PLANS])
)
def test_overrides(overrides: Any, plan: str) -> None:
    from normc.plans.asked import changed

    with suppress(NormcError):
        changed(PLANS[plan], overrides).to_json()


@fuzz(tare=st.dictionaries(_glob, plain, max_size=2) | anything)
def test_tares(tare: Any) -> None:
    with suppress(NormcError):
        request("auto", None, tare)


_word = st.sampled_from([
    "plan", "export", "check", "recipes", "diff", "--recipe", "--option", "--set", "--override", "--tare", "--at",
    "--json", "--width", "--explain", "--against", "--strict", "--heads", "--show", "--polynomials", "-o", "--target",
    "--without", "SAVED", "--frontend", "--steps", "--lr", "--widths", "width=8,16", "a=1", "*=1", "*:norm=sign",
    "nan", "1", "-1", "no.json", "torch.nn:Flatten", "x.py:y", "--passes",
]) | st.text(max_size=6) | st.sampled_from([name for name in NAMES if not name.startswith("__import__")])  # fmt: skip


@fuzz(words=st.lists(_word, max_size=7))
def test_command_lines(words: list[str]) -> None:
    command_line(words)


def command_line(words: list[str]) -> None:
    """Run a command in a folder of its own, without its output."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("saved.json").write_text(TEXTS[-1])
        given_words = ["saved.json" if word == "SAVED" else word for word in words]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                status = main(given_words)
            except SystemExit as end:  # argparse: a wrong command line, or --help
                status = int(end.code or 0)
    assert status in (0, 1, 2)
    assert "Traceback" not in said.getvalue()


_TEMPLATES = [
    ["plan", "saved.json", "--override"], ["plan", "saved.json", "--explain"], ["plan", "saved.json", "--against"],
    ["plan", "saved.json", "--width"], ["plan", "saved.json", "--at"], ["plan"], ["diff", "saved.json"],
    ["recipes", "--show"], ["recipes", "--polynomials"], ["recipes", "--width"], ["export", "saved.json", "-o"],
    ["export", "saved.json", "--target"], ["export", "saved.json", "--without"], ["plan", "saved.json", "--json"],
    ["check"], ["check", "x:y", "--widths"], ["check", "x:y", "--lr"], ["plan", "x:y", "--option"],
    ["plan", "x:y", "--tare"], ["plan", "x:y", "--set"],
]  # fmt: skip


@fuzz(words=st.sampled_from(_TEMPLATES), last=st.lists(_word, min_size=1, max_size=2))
def test_arguments_of_a_command(words: list[str], last: list[str]) -> None:
    command_line([*words, *last])
