from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from typing import Any

import pytest

from normc.errors import NormcError
from normc.plans.plan import NormPlan
from normc.plans.wiring import Edge, Wiring
from tests.plans.sample import sample

WIRED = Wiring(
    ("wpe.weight", "h.0.attn.weight"), ("h.0",), (Edge(3, 0, 64, False), Edge(0, 1, 64, False), Edge(1, 2, 192, True))
)


def wired() -> NormPlan:
    return replace(sample(), wiring=WIRED)


def test_a_file_keeps_the_wiring_and_an_old_one_has_none() -> None:
    again = NormPlan.from_json(wired().to_json())
    assert again.wiring == WIRED
    assert again.to_json() == wired().to_json()
    assert NormPlan.from_json(sample().to_json()).wiring is None


def test_it_is_no_decision() -> None:
    assert wired() == sample()
    assert (wired().hash, wired().checksum) == (sample().hash, sample().checksum)
    assert wired().diff(sample()) == ()
    assert wired().override("wpe.*", scale=0.5).wiring == WIRED


def test_copies_and_pickles_have_it_and_old_pickles_load() -> None:
    assert copy.deepcopy(wired()).wiring == pickle.loads(pickle.dumps(wired())).wiring == WIRED
    old = object.__new__(NormPlan)
    old.__dict__.update({name: value for name, value in sample().__dict__.items() if name != "wiring"})
    assert pickle.loads(pickle.dumps(old)).wiring is None


BROKEN: list[tuple[str, Any, str]] = [
    ("edges", [[0, 5, 1, 0]], "'edges' holds 5, outside 0 to 4"),
    ("edges", [[0, 1, 1]], "'edges' should hold"),
    ("edges", [[0, 1, -1, 0]], "'edges' holds -1"),
    ("edges", [[0, 1, 1, 2]], "'edges' holds 2"),
    ("edges", {}, "'edges' should be a list"),
    ("points", ["wpe.weight"], "'points' should hold a whole number"),
    ("points", [22], "'points' holds 22, outside 0 to 21"),
    ("joins", "h.0", "'joins' should be a list"),
    ("more", [], "'more' is unknown"),
]


@pytest.mark.parametrize(("field", "value", "message"), BROKEN, ids=[message for _, _, message in BROKEN])
def test_a_broken_one_names_the_field(field: str, value: Any, message: str) -> None:
    data = json.loads(wired().to_json())
    data["wiring"][field] = value
    with pytest.raises(NormcError, match=f"the plan's wiring.*{message}"):
        NormPlan.from_json(json.dumps(data))
