from __future__ import annotations

import math
from contextlib import suppress

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from normc.errors import NormcError
from normc.plans.expression import read_formula, show_formula, value_of, write_formula
from normc.plans.geometry import norms
from normc.plans.row import D_IN, D_OUT, KERNEL
from tests.plans.sample import formulas

SHOWN = [
    (3.0 * sympy.sqrt(D_OUT / D_IN) / KERNEL, "3·√(d_out/d_in)/k"),
    (sympy.Max(1, sympy.sqrt(D_OUT / (D_IN * KERNEL))), "max(1, √(d_out/(d_in·k)))"),
    (sympy.Rational(1, 5) * sympy.sqrt(sympy.Max(D_OUT, D_IN)), "√max(d_in, d_out)/5"),
    (1.0 * sympy.sqrt(D_OUT), "√d_out"),
    (10.0 / (D_IN * KERNEL), "10/(d_in·k)"),
    ((D_OUT + 1) * D_IN**2, "(1 + d_out)·d_in^2"),
    (D_OUT ** sympy.Rational(3, 2), "d_out^(3/2)"),
    (sympy.Integer(0), "0"),
]


@pytest.mark.parametrize(("expression", "text"), SHOWN)
def test_formulas_are_shown_as_people_write_them_and_read_back(expression: sympy.Expr, text: str) -> None:
    assert show_formula(write_formula(expression)) == text
    assert read_formula(write_formula(expression)) == expression


def test_the_written_form_is_the_documented_one() -> None:
    assert write_formula(3 * sympy.sqrt(D_OUT / D_IN)) == ("mul", 3, ("sqrt", ("div", "d_out", "d_in")))
    assert show_formula(write_formula(sympy.sqrt(D_OUT / D_IN)), {"d_out": "8", "d_in": "2"}) == "√(8/2)"


@pytest.mark.parametrize("name", sorted(norms))
def test_every_norms_scale_is_in_the_grammar(name: str) -> None:
    assert read_formula(write_formula(norms[name].scale)) == norms[name].scale


@settings(max_examples=100, deadline=None)
@given(formulas)
def test_what_is_read_is_written_and_read_again_the_same(data: object) -> None:
    formula = read_formula(data)
    written = write_formula(formula)
    assert read_formula(written) == formula
    assert write_formula(read_formula(written)) == written
    number = value_of(written, 12, 5, 9)
    assert math.isclose(number, float(formula.subs({D_OUT: 12, D_IN: 5, KERNEL: 9})), rel_tol=1e-9)


REFUSED: list[object] = [
    "__import__('os')", "d_model", None, True, [], ["eval", 1], ["mul", 1], ["sqrt", 1, 2], ["div", 1, 0], ["sqrt", -1],
    {"mul": 1}, float("inf"), float("nan"), 10**30, ["pow", "k", 10**9], ["pow", "k", "k"], ["pow", "k", True],
    ["pow", ["pow", ["pow", 9, 16], 16], 16], ["pow", "k", ["div", 1, 0]], [["mul"], 1, 2], ["add", 1, "d_out.real"],
]  # fmt: skip


@pytest.mark.parametrize("data", REFUSED, ids=str)
def test_anything_else_is_refused(data: object) -> None:
    with pytest.raises(NormcError):
        read_formula(data)


def test_depth_is_bounded() -> None:
    deep: object = "k"
    for _ in range(60):
        deep = ["sqrt", deep]
    with pytest.raises(NormcError, match="deep"):
        read_formula(deep)


@pytest.mark.parametrize(
    "bad", [sympy.log(D_IN), sympy.Symbol("d_in"), D_IN**D_OUT, sympy.oo, sympy.pi, D_IN**99], ids=str
)
def test_other_functions_and_symbols_cannot_be_written(bad: sympy.Expr) -> None:
    with pytest.raises(NormcError):
        write_formula(bad)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(st.none() | st.text() | st.integers() | st.floats(), lambda c: st.lists(c, max_size=4), max_leaves=8)
)
def test_no_data_does_worse_than_a_normc_error(data: object) -> None:
    with suppress(NormcError):
        read_formula(data)
