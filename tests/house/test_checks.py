"""A pass that breaks a fact is named by the check behind it, not by what stumbles over the fact later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import normc
from normc.model.facts import Facts, Log, analyses
from normc.model.trace.graph import ModelGraph
from normc.passes.analyses.blocks import Blocks
from normc.passes.analyses.layout import Layouts
from normc.passes.analyses.mass import Masses
from normc.passes.analyses.role import Roles
from normc.plans.row import Block
from normc.update.program.program import Program
from normc.update.program.rewriting import rewrites

X = torch.randn(5, 6)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def without_first(fact: Any) -> Any:
    return replace(fact, of={name: value for name, value in fact.of.items() if name != "0.weight"})


def blocks(*found: Block) -> Callable[[Blocks], Blocks]:
    return lambda fact: replace(fact, of={"0.weight": found})


def one_axis(fact: Layouts) -> Layouts:
    return replace(fact, of={**fact.of, "0.weight": replace(fact.of["0.weight"], axes=("out",))})


BROKEN: list[tuple[str, type, Callable[[Any], Any], str]] = [
    ("layout", Layouts, without_first, "0.weight is left out"),
    ("layout", Layouts, one_axis, "1 uses for the 2 axes of 0.weight"),
    ("role", Roles, without_first, "0.weight is left out"),
    ("blocks", Blocks, blocks(Block("a", 0, ((0, 9),)), Block("b", 0, ((9, 9),))), "entries 0 to 9 of axis 0"),
    ("blocks", Blocks, blocks(Block("a", 0, ((0, 5),)), Block("b", 0, ((4, 8),))), "share entry 4 of axis 0"),
    ("blocks", Blocks, blocks(Block("a", 2, ((0, 5),))), "has no axis 2"),
    ("mass", Masses, lambda fact: replace(fact, of=dict.fromkeys(fact.of, 0.9)), "masses sum to 3.6"),
]


@pytest.mark.parametrize(("name", "kind", "broken", "said"), BROKEN, ids=[f"{b[0]} {b[3]}" for b in BROKEN])
def test_a_broken_fact_is_found_where_it_was_made(
    name: str, kind: type, broken: Callable[[Any], Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = analyses[name]

    def unsound(model: ModelGraph, facts: Facts, log: Log) -> object:
        fact = sound(model, facts, log)
        assert isinstance(fact, kind)
        return broken(fact)

    monkeypatch.setitem(analyses._parts, name, unsound)
    with pytest.raises(normc.NormcError, match=rf"the pass '{name}' made a fact that can't be: .*{said}"):
        normc.plan(net(), X)


def doubled(program: Program) -> Program:
    return replace(program, chains=(*program.chains, program.chains[0]))


def dropped(program: Program) -> Program:
    return replace(program, chains=program.chains[1:])


@pytest.mark.parametrize("name", ["stack", "fuse"])
@pytest.mark.parametrize(("broken", "said"), [(doubled, "is updated 2 times"), (dropped, "is updated no more")])
def test_a_broken_program_is_found_behind_its_rewrite(
    name: str, broken: Callable[[Program], Program], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = rewrites[name]

    def unsound(program: Program) -> Program:
        return broken(sound(program))

    monkeypatch.setitem(rewrites._parts, name, unsound)
    with pytest.raises(normc.NormcError, match=rf"the pass '{name}' made a fact that can't be: .*{said}"):
        normc.compile(net(), X, lr=0.1, compile=False)


def test_without_the_check_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMC_CHECK", "0")
    monkeypatch.setattr("normc.pipeline.check_fact", None)
    normc.plan(net(), X)
