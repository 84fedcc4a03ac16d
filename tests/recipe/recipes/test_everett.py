"""Everett et al.'s and muP's learning rates: their tables on rows, and equality with torch's optimizers given them."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from normc.compiler import build
from normc.errors import NormcError
from normc.plans.plan import NormPlan
from normc.plans.row import Use
from normc.recipe.by_name import recipe_of, recipes
from normc.recipe.exponents.depths import completep
from normc.recipe.stages.precondition import Plus, Precondition
from tests.handmade import draft, plan_of
from tests.recipe.recipes.tiny import TinyGPT, difference, made, ours, planned

HALF, ONE, THREE = Fraction(1, 2), Fraction(1), Fraction(3, 2)
# Powers of the width that lr grows with: embedding, hidden, readout (2407.05872, table 1; Adafactor by its rule).
TABLE: dict[str, dict[str, tuple[Fraction | int, ...]]] = {
    "standard": {
        "sgd full": (HALF, -HALF, -1), "sgd none": (HALF, 0, -HALF), "adam full": (0, -1, -1),
        "adam none": (0, -HALF, -HALF), "adafactor full": (0, -HALF, -HALF), "adafactor none": (0, 0, 0),
    },
    "ntk": {
        "sgd full": (HALF, HALF, 0), "sgd none": (HALF, 1, HALF), "adam full": (0, -HALF, -HALF),
        "adam none": (0, 0, 0), "adafactor full": (0, -HALF, -HALF), "adafactor none": (0, 0, 0),
    },
    "mup": {
        "sgd full": (0, 0, 0), "sgd none": (0, HALF, 0), "adam full": (-HALF, -1, -HALF),
        "adam none": (-HALF, -HALF, 0), "adafactor full": (0, -HALF, 0), "adafactor none": (0, 0, HALF),
    },
    "mean-field": {
        "sgd full": (1, 1, 1), "sgd none": (1, THREE, 1), "adam full": (0, -HALF, 0), "adam none": (0, 0, HALF),
        "adafactor full": (0, -HALF, 0), "adafactor none": (0, 0, HALF),
    },
}  # fmt: skip
# Gradients' RMS at the start (section 4.3), as powers of the width.
GRADIENTS: dict[str, tuple[Fraction | int, ...]] = {
    "standard": (-HALF, -HALF, 0), "ntk": (-HALF, -1, -HALF), "mup": (-HALF, -1, -HALF), "mean-field": (-1, -THREE, -1)
}  # fmt: skip
ROWS = [("embedding", (50, 64)), ("hidden", (256, 64)), ("output", (50, 64))]
CASES = list(itertools.product(TABLE, ("sgd", "adam", "adafactor"), ("full", "none")))


@pytest.mark.parametrize(("parameterisation", "optimizer", "alignment"), CASES)
def test_each_layer_has_its_power_of_the_width(parameterisation: str, optimizer: str, alignment: str) -> None:
    options: dict[str, Any] = {"parameterisation": parameterisation, "optimizer": optimizer, "alignment": alignment}
    options |= {"base_width": 16, "gamma_embedding": 2.0, "gamma_hidden": 3.0, "gamma_readout": 5.0}
    drafts = [draft(role, shape, role) for role, shape in ROWS]  # type: ignore[arg-type]
    plan = plan_of(drafts, "everett", **options)
    powers = TABLE[parameterisation][f"{optimizer} {alignment}"]
    for row, power, gamma in zip(plan, powers, (2, 3, 5), strict=True):
        assert row.scale.value == pytest.approx(gamma * 4.0 ** float(power))
        assert row.rule == optimizer


@pytest.mark.parametrize("parameterisation", TABLE)
def test_eps_follows_gradients(parameterisation: str) -> None:
    """Steps of a gradient so small that eps alone divides it."""
    for (role, shape), power in zip(ROWS, GRADIENTS[parameterisation], strict=True):
        w = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        row = draft("w", shape, role, dtype="float64")  # type: ignore[arg-type]
        plan = plan_of([row], "everett", parameterisation=parameterisation, base_width=16)
        opt = build(plan, [("w", w)], lr=1.0, compile=False, eps=1.0)
        w.grad = torch.full_like(w, 1e-9)
        opt.step()
        torch.testing.assert_close(w.detach(), -1e-9 * plan["w"].scale.value / 4.0 ** float(power) + 0 * w.detach())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adafactor"])
@pytest.mark.parametrize("alignment", ["full", "none"])
def test_without_multipliers_some_parameterisations_are_the_same(optimizer: str, alignment: str) -> None:
    """Standard is NTK, and muP mean-field, once multipliers are passed on to the weights (THEORY C1)."""
    drafts = [draft(role, shape, role) for role, shape in [*ROWS, ("gain", (64,)), ("scalar", ())]]  # type: ignore[arg-type]
    found = {}
    for name in TABLE:
        options = {"parameterisation": name, "optimizer": optimizer, "alignment": alignment, "multipliers": "folded"}
        plan = plan_of(drafts, "everett", base_width=16, **options)
        recipe = recipes["everett"].configure(**dict(plan.options))
        found[name] = [(row.scale.value, recipe.stages_of(row)) for row in plan]
    assert found["standard"] == found["ntk"]
    assert found["mup"] == found["mean-field"]


def test_full_alignment_is_scion_s_sign() -> None:
    """SP with Adam, fully aligned: an entry's step is lr / fan-in, as that of Scion's sign (THEORY C5)."""
    drafts = [draft("hidden", (256, 64), "hidden"), draft("output", (50, 64), "output")]
    ours_, theirs = plan_of(drafts, "everett", base_width=1), plan_of(drafts, "scion", radius_output=1.0)
    assert [row.scale.value for row in ours_] == [1 / 64, 1 / 64]
    assert theirs["output"].scale.value == ours_["output"].scale.value


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float32, 2e-5, marks=pytest.mark.slow), (torch.float64, 1e-12)]
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fifty_steps_equal_torch_with_a_group_each(optimizer: str, dtype: torch.dtype, tolerance: float) -> None:
    options, lr = {"optimizer": optimizer, "base_width": 64}, 2e-2 if optimizer == "sgd" else 1e-3
    n = {"tok": 16, "pos": 16, "up": 16, "down": 64, "attention": 16, "head": 16}

    def theirs(model: TinyGPT) -> Any:
        groups = []
        for name, parameter in model.named_parameters():
            layer = 0 if parameter.dim() == 1 or name.startswith(("tok", "pos")) else 2 if "head" in name else 1
            width = len(parameter) if parameter.dim() == 1 else n[name.split(".")[0]]
            power = TABLE["standard"][f"{optimizer} full"][layer]
            eps = 1e-6 * (width / 64) ** float(GRADIENTS["standard"][layer])
            groups.append({"params": [parameter], "lr": lr * (width / 64) ** float(power)})
            groups[-1] |= {"eps": eps} if optimizer == "adam" else {}
        if optimizer == "adam":
            return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.1)
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)

    apart, moved = difference(
        made(dtype),
        lambda model: ours(
            model, "everett", lr, options, weight_decay=0.1, **({"eps": 1e-6} if optimizer == "adam" else {})
        ),
        theirs,
    )
    assert apart < tolerance
    assert moved > 1e-4


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float32, 2e-5, marks=pytest.mark.slow), (torch.float64, 1e-12)]
)
def test_fifty_steps_of_adafactor_equal_torch_s(dtype: torch.dtype, tolerance: float) -> None:
    """With full alignment matrices have lr n^-1/2, and the floor of roots is next to nothing."""

    def theirs(model: TinyGPT) -> Any:
        groups = []
        for name, parameter in model.named_parameters():
            matrix = parameter.dim() == 2 and not name.startswith(("tok", "pos"))
            width = parameter.shape[1] / 64 if matrix else 1.0
            groups.append({"params": [parameter], "lr": 2e-2 * width**-0.5})
        return torch.optim.Adafactor(groups, eps=(1e-18, 1e-3))

    options = {"optimizer": "adafactor", "base_width": 64}
    apart, _ = difference(made(dtype), lambda model: ours(model, "everett", 2e-2, options), theirs)
    assert apart < tolerance


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float32, 2e-5, marks=pytest.mark.slow), (torch.float64, 1e-12)]
)
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("recipe", ["mup-adam", "completep"])
def test_fifty_steps_of_mup_equal_torch_with_a_group_each(
    recipe: str, alpha: float, dtype: torch.dtype, tolerance: float
) -> None:
    """A model 16 wide, tuned at 8: m_N is 2, wherever the matrix is. And four times as deep, for CompleteP."""
    options: dict[str, Any] = {"base_width": 8} | (
        {"depth": 8, "base_depth": 2, "alpha": alpha} if recipe == "completep" else {}
    )
    deep = 4.0 if recipe == "completep" else 1.0

    def theirs(model: TinyGPT) -> Any:
        groups = []
        for name, p in model.named_parameters():
            part = "embedding" if name.startswith(("tok", "pos")) else "readout" if "head" in name else "hidden"
            lr, decay, eps = 2e-3, 0.1, 1e-6
            if p.dim() == 1:
                lr, eps = 2e-3 * deep ** (alpha - 1), 1e-6 / (len(p) / 8 * deep**alpha)
            elif part == "hidden":
                lr, decay, eps = 2e-3 * deep ** (alpha - 1) / 2, 0.2, 1e-6 / (2 * deep**alpha)
            groups.append({"params": [p], "lr": lr, "weight_decay": decay, "eps": eps})
        return torch.optim.AdamW(groups, betas=(0.9, 0.95))

    apart, moved = difference(
        made(dtype),
        lambda model: ours(model, recipe, 2e-3, options, weight_decay=0.1, eps=1e-6),
        theirs,
    )
    assert apart < tolerance
    assert moved > 1e-3


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float32, 2e-5, marks=pytest.mark.slow), (torch.float64, 1e-12)]
)
def test_fifty_steps_of_u_mup_equal_torch_with_a_group_each(dtype: torch.dtype, tolerance: float) -> None:
    """A stack of two layers; decay is by the group's lr for all."""

    def theirs(model: TinyGPT) -> Any:
        groups = []
        for name, p in model.named_parameters():
            ratio = 0.5**0.5 if p.dim() == 1 else 0.5**0.5 * p.shape[1] ** -0.5
            ratio = 1 / 4 if name.startswith(("tok", "pos")) else 1.0 if "head" in name else ratio
            groups.append({"params": [p], "lr": 2e-3 * ratio, "weight_decay": 0.1 / ratio})
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-6)

    apart, moved = difference(made(dtype), lambda model: ours(model, "u-mup", 2e-3, weight_decay=0.1, eps=1e-6), theirs)
    assert apart < tolerance
    assert moved > 1e-4


def test_completep_has_the_exponents_module_s_rules() -> None:
    model = made()
    plan = planned("completep", (("base_width", 8), ("depth", 8), ("alpha", 0.5)))
    parts = {"tok": "embedding", "pos": "embedding", "head": "readout"}
    for name, parameter in model.named_parameters():
        part: Any = parts.get(name.split(".")[0], "hidden" if parameter.dim() == 2 else "gain")
        assert plan[name].scale.value == pytest.approx(completep(part, 2.0, 4.0, 0.5).lr)


def test_u_mup_by_fan_in_and_depth() -> None:
    plan = planned("u-mup", (("depth", 2),))
    expected = {
        "tok.weight": 1 / 4, "pos.weight": 1 / 4, "attention.0.q.weight": 0.5**0.5 / 4, "down.1.weight": 0.5**0.5 / 8,
        "up.0.bias": 0.5**0.5, "head.weight": 1.0,
    }  # fmt: skip
    assert {name: plan[name].scale.value for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_the_depth_is_the_model_s_own_unless_it_is_given(layers: int) -> None:
    found = planned("u-mup", (), layers=layers)
    assert dict(found.options) == {"depth": layers}
    assert found["up.0.bias"].scale.value == pytest.approx(layers**-0.5)
    assert planned("u-mup", (("depth", 9),), layers=layers)["up.0.bias"].scale.value == pytest.approx(1 / 3)
    deep = planned("completep", (("base_depth", 1), ("alpha", 0.5)), layers=layers)
    assert deep["up.0.bias"].scale.value == pytest.approx(layers**-0.5)
    assert NormPlan.from_json(deep.to_json()).hash == deep.hash
    mixed = planned("adamw, hidden=u-mup", (), layers=layers)
    assert dict(mixed.options) == {"u-mup.depth": layers}


def test_eps_of_a_loaded_plan_knows_the_depth() -> None:
    """CompleteP's lr says nothing of the depth, but eps falls with it."""
    made_of = {layers: planned("completep", (), layers=layers)["norm1.0.weight"] for layers in (2, 4)}
    plans = {layers: planned("completep", (), layers=layers) for layers in (2, 4)}
    chains = {
        layers: recipe_of(NormPlan.from_json(plans[layers].to_json())).stages_of(made_of[layers]) for layers in plans
    }
    ratios = {
        layers: stage.by.ratio
        for layers in chains
        for stage in chains[layers]
        if isinstance(stage, Precondition) and isinstance(stage.by, Plus)
    }
    assert ratios[2] == pytest.approx(2 * (ratios[4] or 0))


def test_formulas_hold_at_other_widths() -> None:
    """A row's formula is of its own fan-in: the plan of a model twice as wide has the same."""
    for recipe, options in (("mup-adam", ()), ("u-mup", ()), ("everett", ()), ("completep", (("depth", 3),))):
        narrow, wide = (planned(recipe, options, width=width) for width in (16, 32))
        for row in narrow:
            assert row.scale.formula == wide[row.name].scale.formula or recipe in ("mup-adam", "completep")
            assert wide[row.name].scaled(row.scale.formula).value == pytest.approx(wide[row.name].scale.value)


def test_a_tied_embedding_a_fallback_and_a_model_without_width() -> None:
    use = Use("embedding", "aten.embedding", "", "", ("index", "out"))
    (row,) = plan_of([draft("w", (50, 64), "output", uses=(use,))], "everett", base_width=16).rows
    assert row.scale.value == 1 / 4
    assert "embedding as well" in recipes["everett"].geometry(row).reason
    (row,) = plan_of([draft("w", (50, 64), "hidden", fallback="unknown op")], "mup-adam", base_width=16).rows
    assert row.scale.value == 1 / 4
    assert "fallback" in recipes["mup-adam"].geometry(row).reason
    assert "no one width" in recipes["mup-adam"].geometry(row).reason


@pytest.mark.parametrize("option", ["parameterisation", "optimizer", "alignment", "multipliers"])
def test_what_is_unknown_is_refused(option: str) -> None:
    with pytest.raises(NormcError, match="known"):
        recipes["everett"].configure(**{option: "other"})
    with pytest.raises(NormcError, match="positive"):
        recipes["everett"].configure(base_width=0)
    for wrong in ({"base_width": 0}, {"base_depth": 0}, {"depth": -1}):
        with pytest.raises(NormcError, match="positive"):
            recipes["completep"].configure(**wrong)
