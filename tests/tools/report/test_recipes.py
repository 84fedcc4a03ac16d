"""What the terminal says of recipes, and of the rewrites of an update."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from normc.cli import main
from normc.pipeline import program_of
from normc.recipe.by_name import recipes
from normc.tools.report.recipes import chains, formula_of, listing, sample, show, written
from tests.handmade import Small, plan_of, small_rows


def said(what: RenderableType, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(what)
    return out.getvalue()


@pytest.mark.parametrize("name", sorted(recipes))
def test_every_recipe_is_listed_with_its_stages(name: str) -> None:
    recipe = recipes[name]
    text = said(show(name))
    assert recipe.summary and recipe.formula and recipe.source
    for rule in chains(recipe):
        assert rule in text
        for stage in recipe.stages(rule):
            assert formula_of(stage), f"{type(stage).__name__}.emit has no formula in its docstring"
            assert written(stage).split("(")[0] in text
    assert f"{name}\n" in said(listing()).replace("  ", "\n")


def test_the_state_of_a_recipe_is_that_of_its_chain() -> None:
    row = sample(recipes["muon"], "bias")
    assert recipes["muon"].state_bytes(row) == 2 * 4 * row.numel + 4
    assert "4 B a parameter of a matrix (1024 x 1024), 8 B of a vector" in said(show("muon"))


def test_the_command_line_shows_recipes_and_passes(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert main(["recipes", "--show", "scion", "--width", "100"]) == 0
    assert "w <- (1 - lr) w" in capsys.readouterr().out
    assert main(["recipes", "--show", "scoin"]) == 2
    assert "did you mean 'scion'" in capsys.readouterr().err
    saved = f"{tmp_path}/plan.json"
    Path(saved).write_text(plan_of(small_rows(Small()), "uscion").to_json(), encoding="utf-8")
    assert main(["export", saved, "--passes", "-o", f"{tmp_path}/update.py"]) == 0
    out = capsys.readouterr().out
    for part in ("laws", "stack", "batch", "because", "saves", "functions"):
        assert part in out


def test_each_kind_of_function_says_why_it_is_one() -> None:
    rows = small_rows(Small())
    for name, why in (("soap", "what they rotate"), ("hyperball", "for all sizes"), ("scion", "norms of vectors")):
        program = program_of(plan_of(rows, name))
        assert any(why in decision.why for decision in program.decisions if decision.rule == "batch")


def test_a_recipe_may_have_another_name() -> None:
    assert recipes["modula-sgd"] is recipes["modula"]
    assert recipes["modula-sgd, output=muon"].name == "modula, output=muon"
    assert "modula-sgd" in said(listing())
