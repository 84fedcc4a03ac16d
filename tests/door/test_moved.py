"""Names that modules had before they moved, in pickles and in code of users."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib import import_module

import pytest
import torch

import normc
from normc.moved import HANDED_ON, OLD
from tests.house.tree import ROOT, modules

USERS = """
from normc.ops import Call, Result, Value, rule
from normc.recipes import EntryByEntry, recipes
from normc.recipes.muon import Muon
from normc.stages.apply import Decay, Descend
from normc.weightless import weightless
import normc.model.ops.call
import normc.recipe.recipes.muon

assert rule is normc.model.ops.call.rule
assert Muon is normc.recipe.recipes.muon.Muon and isinstance(recipes["muon"], Muon)
try:
    from normc.recipes import Unheard
except ImportError:
    pass
else:
    raise AssertionError
try:
    import normc.recipes.unheard
except ModuleNotFoundError:
    pass
else:
    raise AssertionError
"""


def test_code_that_was_written_for_the_old_names_runs() -> None:
    subprocess.run([sys.executable, "-c", USERS], check=True, cwd=ROOT)


def test_old_names_stand_for_modules_that_are_there() -> None:
    assert not set(OLD) & set(modules())
    for name in (*OLD.values(), *(home for homes in HANDED_ON.values() for home in homes)):
        import_module(name)


@pytest.mark.parametrize("recipe", ["auto", "muon, output=adamw", "soap"])
def test_a_pickle_of_before_loads_and_steps_alike(recipe: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
    opt = normc.compile(model, torch.arange(9), lr=1e-2, recipe=recipe, compile=False)
    text = pickle.dumps((model, opt), protocol=2)  # names end with their line there, whatever their length
    for old, new in sorted(OLD.items(), key=lambda pair: -len(pair[1])):
        text = text.replace(b"c" + new.encode(), b"c" + old.encode())
    assert b"normc.recipe." not in text
    assert b"cnormc.recipes." in text
    twin, again = pickle.loads(text)
    for one, optimizer in ((model, opt), (twin, again)):
        one(torch.arange(9)).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
