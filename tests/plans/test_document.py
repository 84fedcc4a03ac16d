from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normc.errors import NormcError
from normc.plans.plan import NormPlan
from tests.plans.sample import random_plans, sample

TEXT = sample().to_json()
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_a_saved_plan_is_the_plan() -> None:
    plan = sample()
    again = NormPlan.from_json(plan.to_json())
    assert again == plan
    assert again.hash == plan.hash
    assert again.to_json() == TEXT


@QUICK
@given(random_plans())
def test_any_plan_survives_being_saved(plan: NormPlan) -> None:
    assert NormPlan.from_json(plan.to_json()) == plan


def test_the_document_is_a_fact_a_line() -> None:
    lines = TEXT.splitlines()
    assert lines[1:3] == [' "schema": "normc-plan",', ' "version": 1,']
    assert '   "shape": [64, 192],' in lines
    formula = '["div", ["mul", 3.0, ["sqrt", ["div", "d_out", "d_in"]]], "k"]'
    assert f'   "scale": {{"formula": {formula}, "per_block": [3.0, 3.0, 3.0]}},' in lines


def at(*path: Any, to: Any) -> str:
    """The sample's document with one place changed; `...` deletes it."""
    data: Any = json.loads(TEXT)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return json.dumps(data)


# Row 2 is h.0.attn.weight.
BROKEN = [
    (at("schema", to="plan"), "the plan.*'schema'"),
    (at("version", to=2), "'version'.*reads 1"),
    (at("extra", to=1), "'extra' is unknown"),
    (at("notes", to=...), "'notes' is missing"),
    (at("options", to={"radius": [1]}), "'options'"),
    (at("rows", to={}), "'rows'"),
    (at("rows", 2, to=3), "row 2 should be an object"),
    (at("rows", 2, "norm", to=...), "h.0.attn.weight.*'norm' is missing"),
    (at("rows", 2, "norn", to=1), "h.0.attn.weight.*'norn' is unknown"),
    (at("rows", 2, "norm", to="specral"), "h.0.attn.weight.*'norm' is 'specral'; known"),
    (at("rows", 2, "role", to="hiden"), "h.0.attn.weight.*'role' is 'hiden'"),
    (at("rows", 2, "dtype", to="Tensor"), "h.0.attn.weight.*'dtype'"),
    (at("rows", 2, "rule", to="lmo; import os"), "h.0.attn.weight.*'rule'"),
    (at("rows", 2, "shape", to=[64, "192"]), "h.0.attn.weight.*'shape'"),
    (at("rows", 2, "shape", to=[64, 193]), "h.0.attn.weight.*'fan_out' is 192"),
    (at("rows", 2, "fan_in", to=63), "h.0.attn.weight.*'fan_in' is 63"),
    (at("rows", 2, "axes", "in", to=[2]), "h.0.attn.weight.*'in' holds 2"),
    (at("rows", 2, "axes", "in", to=[1]), "h.0.attn.weight.*'axes' gives one axis two uses"),
    (at("rows", 2, "blocks", 2, "spans", to=[[128, 193]]), "h.0.attn.weight.*'spans' holds 193"),
    (at("rows", 2, "blocks", 2, "spans", to=[[128, 128]]), "h.0.attn.weight.*empty span"),
    (at("rows", 2, "blocks", 2, "spans", to=[[127, 192]]), "h.0.attn.weight.*overlap"),
    (at("rows", 2, "blocks", 2, to=...), "h.0.attn.weight.*3 numbers for 2 blocks"),
    (at("rows", 2, "scale", "per_block", to=[3.0, 3.0, 4.0]), "h.0.attn.weight.*holds 4 where its formula gives 3"),
    (at("rows", 2, "scale", "formula", to="d_model"), "h.0.attn.weight.*'scale'"),
    (at("rows", 2, "target", to=-1), "h.0.attn.weight.*'target'"),
    (at("rows", 2, "target", to=True), "h.0.attn.weight.*'target'"),
    (at("rows", 2, "mass", to="1"), "h.0.attn.weight.*'mass'"),
    (at("rows", 2, "frozen", to=0), "h.0.attn.weight.*'frozen'"),
    (at("rows", 2, "evidence", 0, "claim", to=None), "h.0.attn.weight.*evidence 0.*'claim'"),
    (at("rows", 1, "uses", 0, "axes", to=["index"]), "wpe.weight.*use 0.*'axes'"),
    (at("rows", 2, "name", to="wpe.weight"), "two rows called 'wpe.weight'"),
    (at("rows", 2, "target", to=3.5), "hash"),
    (at("hash", to="0" * 64), "hash"),
    (TEXT.replace('"version": 1', '"version": 1, "version": 1'), "repeats"),
    (TEXT.replace("3.0]", "NaN]"), "NaN"),
    (TEXT[:-9], "no JSON"),
    ("[" * 100_000, "deep|JSON"),
    ("null", "should be an object"),
    ("", "no JSON"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_broken_document_names_the_row_and_the_field(text: str, message: str) -> None:
    with pytest.raises(NormcError, match=message) as caught:
        NormPlan.from_json(text)
    assert caught.value.fix


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.text(max_size=3), st.integers(0, 4))
def test_a_corrupt_file_raises_nothing_but_normc_errors(start: int, put: str, drop: int) -> None:
    with suppress(NormcError):
        NormPlan.from_json(TEXT[:start] + put + TEXT[start + drop :])


_json = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_value_of_another_type_anywhere_raises_nothing_but_normc_errors(data: st.DataObject) -> None:
    inner: Any = json.loads(TEXT)
    whole = inner
    while True:
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        if not isinstance(inner[key], dict | list) or not inner[key] or data.draw(st.integers(0, 5)) == 0:
            break
        inner = inner[key]
    inner[key] = data.draw(_json)
    with suppress(NormcError):
        NormPlan.from_json(json.dumps(whole))


def test_a_number_that_is_not_finite_cannot_be_saved() -> None:
    plan = sample()
    broken = NormPlan(plan.rows, plan.model, plan.recipe, (("radius", float("inf")),))
    with pytest.raises(NormcError, match="finite"):
        broken.to_json()
