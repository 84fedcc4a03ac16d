"""Each block of a row is stepped as a matrix of its own would be, recipe by recipe."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from normc.plans.row import Row
from tests.blocked import BLOCKED, parts
from tests.handmade import after, draft
from tests.quick import others_slow
from tests.ties import firm_bases

pytestmark = pytest.mark.usefixtures("updates_once")

OFTEN = {"precondition_frequency": 2}
RECIPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "adamuon": ("adamuon", {}, {}),
    "kl-shampoo": ("kl-shampoo", OFTEN, {}),
    "kl-soap": ("kl-soap", OFTEN, {}),
    "muown": ("muown", {}, {"weight_decay": 0.3}),
    "shampoo": ("shampoo", {}, {}),
    "soap": ("soap", {"precondition_frequency": 3}, {}),
    "soap-muon": ("soap-muon", OFTEN, {}),
    "soap-muon on the sphere": ("soap-muon", OFTEN | {"radius": "sphere"}, {}),
}


CASES = {case.name: case for case in BLOCKED}
# The backends share what is emitted: the reference runs two layouts in every run of the tests, and all in the slow one.
QUICK = {("cpu", name) for name in CASES} | {("reference", "interleaved"), ("reference", "experts")}


@pytest.mark.parametrize("way", others_slow(itertools.product(("cpu", "reference"), CASES), QUICK), ids="-".join)
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_each_block_is_a_matrix_of_its_own(recipe: str, way: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps in float64, with refreshments of bases."""
    firm_bases(monkeypatch)
    backend, case = way[0], CASES[way[1]]
    name, options, values = RECIPES[recipe]

    def stepped(row: Row, start: Tensor, grads: Tensor, backend: str = "cpu") -> Tensor:
        return after(row, start, grads, name, options, backend=backend, **values)

    generator = torch.Generator().manual_seed(4)
    grads = torch.randn(6, *case.shape, generator=generator, dtype=torch.float64)
    start = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    row = draft("w", case.shape, "hidden", dtype="float64", **case.facts)
    found = stepped(row, start, grads, backend)
    every = zip(*(parts(case, grad) for grad in grads), strict=True)
    for mine, own, first in zip(parts(case, found), every, parts(case, start), strict=True):
        alone = draft("w", tuple(mine.shape), "hidden", dtype="float64")
        torch.testing.assert_close(mine, stepped(alone, first, torch.stack(own)), atol=1e-10, rtol=0)
