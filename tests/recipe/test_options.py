"""Every choice of a recipe steps a model with a tied table, kernels and biases; others are refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.errors import NormcError
from normc.model.trace.graph import ModelGraph
from normc.passes.analyses.request import Request
from normc.pipeline import plan_graph, traced
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Recipe
from tests.quick import others_slow

# Choices that need another beside them, and what is said of them without it.
BESIDE: dict[tuple[str, str, Option], tuple[dict[str, Option], str]] = {
    ("shampoo", "trace", True): ({"power": "1/2"}, "set power 1/2"),
}


class Tied(nn.Module):
    """A table that is the head too, places, a convolution over time, a norm and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.mix, self.norm, self.up = nn.Conv1d(8, 8, 3, padding=1), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, 6] -> logits [batch, 6, 11]."""
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        x = x + self.mix(x.transpose(1, 2)).transpose(1, 2).relu()
        return self.up(self.norm(x)) @ self.tokens.weight.T


Subject = tuple[nn.Module, Tensor, ModelGraph]


@pytest.fixture(scope="module")
def tied() -> Subject:
    """The model, its input and its graph: one trace for all choices."""
    torch.manual_seed(0)
    model, ids = Tied(), torch.randint(0, 11, (2, 6))
    graph = traced(model, ((ids,), {}), Request(recipes["auto"]))
    return model, ids, graph


def others(recipe: Recipe) -> Iterator[tuple[str, bool | str]]:
    """Yield every option that is a name or a bool with each value that isn't its default."""
    for option, own in recipe.known.items():
        values = (not own,) if isinstance(own, bool) else recipe.choices_of(option)
        yield from ((option, value) for value in values if value != own)


def check_steps(subject: Subject, recipe: Recipe, what: object) -> None:
    """Two steps move every parameter, to where it is finite."""
    original, ids, graph = subject
    model = copy.deepcopy(original)
    optimizer = build(plan_graph(graph, Request(recipe)), model.named_parameters(), lr=0.01, compile=False)
    for _ in range(2):
        model(ids).square().mean().backward()
        optimizer.step()
    for (name, after), before in zip(model.named_parameters(), original.parameters(), strict=True):
        assert after.isfinite().all() and not torch.equal(after, before), (what, name)


@pytest.mark.parametrize("name", others_slow(recipes, ("auto", "muon", "lion")))
def test_every_choice_steps(name: str, tied: Subject) -> None:
    for option, value in others(recipes[name]):
        beside, said = BESIDE.get((name, option, value), ({}, ""))
        if beside:
            with pytest.raises(NormcError, match=said):
                check_steps(tied, recipes[name].configure(**{option: value}), (option, value))
        check_steps(tied, recipes[name].configure(**{option: value}, **beside), (option, value))


@pytest.mark.parametrize("name", list(recipes))
def test_every_name_has_its_choices_and_no_other(name: str) -> None:
    recipe = recipes[name]
    for option in (option for option, own in recipe.known.items() if isinstance(own, str)):
        known = recipe.choices_of(option)
        assert recipe.known[option] in known
        for value in ("no such thing", "", 3, True, None):
            with pytest.raises(NormcError) as found:
                recipe.configure(**{option: value})
            said = f"option {option} of the recipe {name} can't be {value!r}"
            assert str(found.value).split("\n") == [said, f"  fix: known: {', '.join(known)}"]


def test_the_nearest_choice_is_said_and_a_polynomials_own_options_are_held_against_its() -> None:
    for name, options, said in (
        ("muon", {"dialect": "moonlit"}, "did you mean 'moonlight'? known: torch, keller, moonlight, spectral"),
        ("muown", {"adjust_lr": "auto"}, "known: original, match_rms_adamw, spectral"),
        ("hyperball", {"polynomial": "kelly:lower=0.1"}, "did you mean 'keller'? known: exact, keller, "),
        ("hyperball", {"polynomial": "keller:low=0.1"}, "did you mean 'lower'? known: steps, lower"),
        ("muon, output=lion", {"decay": "cautios"}, "option decay of the recipe muon can't be 'cautios'"),
    ):
        with pytest.raises(NormcError) as found:
            recipes[name].configure(**options)
        assert said in str(found.value)
    assert recipes["muon"].configure(polynomial=" minimax : lower=1e-3").steps()
