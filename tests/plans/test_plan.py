from __future__ import annotations

import io
from dataclasses import replace

import pytest
import sympy
from rich.console import Console

from normc.errors import NormcError
from normc.plans.geometry import norms
from normc.plans.plan import NormPlan
from normc.plans.row import D_IN, D_OUT, Evidence
from tests.handmade import draft, plan_of
from tests.plans.sample import row, sample


def test_rows_are_found_by_name_and_by_alias() -> None:
    plan = sample()
    assert plan["head.weight"] is plan["wte.weight"] is plan.rows[0]
    assert "head.weight" in plan
    assert list(plan.by_name) == [row.name for row in plan]
    assert len(plan) == len(plan.rows) == 21


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(NormcError, match=r"no parameter 'h.0.atn.weight'") as caught:
        sample()["h.0.atn.weight"]
    assert "'h.0.attn.weight'" in caught.value.fix


def test_every_parameter_is_there_once() -> None:
    twice = row("head.weight", (4, 4), "output", "sign")
    with pytest.raises(NormcError, match=r"two rows called 'head.weight'"):
        NormPlan((*sample().rows, twice), "Sample", "uscion")


def test_coverage_and_state_count_tensors_and_entries() -> None:
    plan = sample()
    assert plan.coverage == (19, 21, plan.coverage.all_entries - 64 - 64, sum(row.numel for row in plan))
    assert plan.state_bytes == sum(row.state_bytes for row in plan if not row.frozen)


def test_the_hash_is_of_decisions_and_not_of_reasons() -> None:
    plan = sample()
    first = plan.rows[0]
    told = replace(first, evidence=(*first.evidence, Evidence("note", "x", "y")), uses=(), sensitivity=2.0)
    assert NormPlan((told, *plan.rows[1:]), "Other", plan.recipe, plan.options).hash == plan.hash
    for change in (
        {"target": 9.0},
        {"norm": "rms"},
        {"role": "hidden"},
        {"mass": 0.5},
        {"rule": "none"},
        {"aliases": ()},
    ):
        other = NormPlan((replace(first, **change), *plan.rows[1:]), plan.model, plan.recipe, plan.options)
        assert other.hash != plan.hash, change
    waiting = NormPlan((replace(first, frozen=True), *plan.rows[1:]), plan.model, plan.recipe, plan.options)
    assert waiting.hash == plan.hash
    assert NormPlan(plan.rows, plan.model, "scion", plan.options).hash != plan.hash
    assert NormPlan(plan.rows, plan.model, plan.recipe).hash != plan.hash


def test_overriding_a_norm_keeps_the_target_and_says_so() -> None:
    plan = sample()
    other = plan.override("h.*.attn.weight", norm="sign")
    changed = other["h.2.attn.weight"]
    assert (changed.norm, changed.target) == ("sign", 6.0)
    assert changed.scale == changed.scaled(6.0 * norms["sign"].scale)
    assert changed.scale.per_block == (6.0 / 64,) * 3
    assert changed.evidence[-1].fact == "override"
    assert plan["h.2.attn.weight"].norm == "spectral"
    assert {change.name for change in plan.diff(other)} == {f"h.{i}.attn.weight" for i in range(4)}
    assert NormPlan.from_json(other.to_json()) == other


def test_overriding_a_scale_takes_a_number_or_an_expression() -> None:
    plan = sample()
    assert plan.override("wpe.weight", scale=0.25)["wpe.weight"].scale.value == 0.25
    changed = plan.override("h.0.attn.weight", scale=2 * sympy.sqrt(D_OUT / D_IN))["h.0.attn.weight"]
    assert changed.scale.per_block == (2.0, 2.0, 2.0)
    assert changed.target == 2.0


def test_overriding_a_scale_keeps_the_recipes_own_factor_between_scale_and_target() -> None:
    """auto counts a window's places as fan-in, where the norm's own factor is one place's."""
    kernel = draft("conv.weight", (8, 4, 3, 3), "hidden", kernel_axes=(2, 3), in_axes=(1,))
    table = draft("head.weight", (64, 8), "output")
    plan = plan_of([replace(own, sensitivity=1.0, magnitude=1.0) for own in (kernel, table)], "auto")
    for own in plan.rows:
        assert own.target > 0
        half = plan.override(own.name, scale=0.5 * own.scale.formula)[own.name]
        assert half.scale.value == pytest.approx(own.scale.value / 2, rel=1e-12)
        assert half.target == pytest.approx(own.target / 2, rel=1e-12)


def test_overriding_a_mass_changes_target_and_scale_in_proportion_and_zero_freezes() -> None:
    plan = sample()
    weighty = NormPlan((replace(plan["wpe.weight"], mass=0.1),), plan.model, plan.recipe)
    changed = weighty.override("wpe.weight", mass=0.2)["wpe.weight"]
    assert (changed.mass, changed.target, changed.scale.value) == (0.2, 2.0, 16.0)
    still = plan.override("h.1.attn.weight", mass=0)["h.1.attn.weight"]
    assert (still.target, still.scale.per_block, still.rule, still.frozen) == (0.0, (0.0,) * 3, "none", True)
    assert still.state_bytes == 0
    with pytest.raises(NormcError, match="has no mass"):
        plan.override("wpe.weight", mass=0.2)


def test_a_norm_moves_a_row_of_another_rule_to_the_norms_own() -> None:
    adam = replace(
        row("wte.weight", (10, 4), "embedding", "sign", in_axes=(0,), out_axes=(1,)), rule="adamw", state_bytes=324
    )
    changed = NormPlan((adam,), "M", "muon").override("wte.*", norm="colnorm")["wte.weight"]
    assert (changed.rule, changed.state_bytes, changed.scale.value) == ("lmo", 160, 2.0)


def test_a_norm_for_a_fallback_takes_torchs_own_layout_and_says_that_it_assumed_it() -> None:
    changed = sample().override("mix.weight", norm="spectral")["mix.weight"]
    assert (changed.out_axes, changed.in_axes, changed.fan_in, changed.fallback) == ((0,), (1,), 8, None)
    assert any("assumed" in evidence.reason for evidence in changed.evidence)


@pytest.mark.parametrize(
    ("pattern", "change", "message"),
    [
        ("h.9.attn.weight", {"norm": "sign"}, "no parameter of Sample matches"),
        ("H.*", {"norm": "sign"}, "no parameter of Sample matches"),
        ("wpe.weight", {}, "changes nothing"),
        ("wpe.weight", {"norm": "sing"}, "no norm is called 'sing'"),
        ("wpe.weight", {"scale": float("nan")}, "scale .* is nan"),
        ("wpe.weight", {"scale": -1}, "scale .* is -1"),
        ("wpe.weight", {"scale": "2"}, "scale .* is '2'"),
        ("wpe.weight", {"scale": D_OUT - 1000}, "0 or more"),
        ("wpe.weight", {"scale": sympy.Symbol("d_model")}, "can't be d_model"),
        ("wpe.weight", {"mass": -1.0}, "mass .* is -1.0"),
        ("old.*", {"norm": "sign"}, "no gradient reaches 'old.weight'"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(pattern: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(NormcError, match=message):
        sample().override(pattern, **change)  # type: ignore[arg-type]  # on purpose


def test_a_glob_matches_aliases_and_names_that_hold_brackets() -> None:
    odd = row("block[0].w", (4, 4), "hidden", "spectral")
    plan = NormPlan((*sample().rows, odd), "Sample", "uscion")
    assert plan.override("head.*", norm="rms")["wte.weight"].norm == "rms"
    assert plan.override("block[0].w", norm="rms")["block[0].w"].norm == "rms"


def test_diff_names_fields_and_missing_rows() -> None:
    plan = sample()
    other = NormPlan((replace(plan.rows[0], role="hidden"), *plan.rows[2:]), plan.model, plan.recipe, plan.options)
    changes = plan.diff(other)
    assert changes[0] == ("wte.weight", (("role", "output", "hidden"),))
    assert changes[1].name == "wpe.weight"
    assert changes[1].fields == (("row", plan.rows[1], None),)
    assert plan.diff(plan) == ()


def test_a_plan_prints_without_colour_codes_when_piped_and_with_them_in_a_terminal() -> None:
    plan = sample()
    assert "\x1b" not in str(plan)
    assert "\x1b" not in plan.text(100)
    screen = io.StringIO()
    Console(file=screen, force_terminal=True, color_system="standard", width=100).print(plan)
    assert "\x1b" in screen.getvalue()
