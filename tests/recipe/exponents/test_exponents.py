"""Exponents: the table of 2407.05872 and its equivalences, CompleteP's table, the numbers of u-muP's package."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import pytest
import torch

from normc.errors import NormcError
from normc.plans.geometry import norms
from normc.plans.row import D_IN, D_OUT, KERNEL
from normc.recipe.exponents.depths import Part, Rules, completep, mup, u_mup, u_mup_residual
from normc.recipe.exponents.linear import Least, minimise_sum
from normc.recipe.exponents.widths import (
    ALIGNMENTS,
    PARAMETERISATIONS,
    Alignment,
    Exponents,
    Layer,
    Layers,
    Parameterisation,
    exponents,
    gradients,
)

OPTIMIZERS = ("sgd", "adam", "adafactor")
# Of n in the learning rate (embedding, hidden, readout): SGD, Adam, Adafactor, each with full and no alignment.
TABLE = {
    "standard": "1/2 -1/2 -1,  1/2 0 -1/2,  0 -1 -1,       0 -1/2 -1/2,  0 -1/2 -1/2,  0 0 0",
    "ntk": "     1/2 1/2 0,    1/2 1 1/2,   0 -1/2 -1/2,   0 0 0,        0 -1/2 -1/2,  0 0 0",
    "mup": "     0 0 0,        0 1/2 0,     -1/2 -1 -1/2,  -1/2 -1/2 0,  0 -1/2 0,     0 0 1/2",
    "mean-field": "1 1 1,      1 3/2 1,     0 -1/2 0,      0 0 1/2,      0 -1/2 0,     0 0 1/2",
}
GRADIENTS = {"standard": "1/2 1/2 0", "ntk": "1/2 1 1/2", "mup": "1/2 1 1/2", "mean-field": "1 3/2 1"}
CELLS = [
    (parameterisation, optimizer, alignment, cell)
    for parameterisation, row in TABLE.items()
    for (optimizer, alignment), cell in zip(product(OPTIMIZERS, ("full", "none")), row.split(","), strict=True)
]


def layers(text: str) -> Layers:
    return Layers(*map(Fraction, text.split()))


def negated(of: Layers) -> Layers:
    return Layers(*(-value for value in of))


@pytest.mark.parametrize(("parameterisation", "optimizer", "alignment", "cell"), CELLS)
def test_the_table_is_what_solves_the_constraints(
    parameterisation: str, optimizer: str, alignment: str, cell: str
) -> None:
    found = exponents(parameterisation, optimizer, alignment)
    assert negated(found.rate) == layers(cell)
    assert min(found.change) == 0
    assert found.change.hidden == 0  # as much as is stable: features are learnt
    assert found.gradient == layers(GRADIENTS[parameterisation])
    assert (found.multiplier, found.init) == PARAMETERISATIONS[parameterisation]


def stable(of: Parameterisation, optimizer: str, alignment: Alignment, c: tuple[Fraction, ...]) -> bool:
    """Whether nothing grows with n at these rates: the constraints, written out without a program."""
    (a0, a1, a2), (b0, b1, b2) = of
    half = Fraction(1, 2)
    alpha, u, omega, last = alignment
    zero = Fraction(0)
    g = (zero, zero, zero) if optimizer == "adam" else (b0, b1, b2)
    if optimizer == "sgd":
        behind = min(a2 + b2, 2 * a2 + c[2])
        g = (behind + a0, behind + a1, a2)
    s0, s1, s2 = (a0 + c[0] + g[0], a1 + c[1] + g[1], a2 + c[2] + g[2])
    r0 = s0
    r1 = min(s1 - alpha, s1 + r0 - u, half + r0 - omega)
    r2 = min(a2 + b2 + r1 - (omega if last is None else last), s2 - alpha, s2 + r1 - u)
    return min(r0, r1, r2) >= 0


def best_on_a_grid(of: Parameterisation, optimizer: str, alignment: Alignment, step: Fraction) -> list[Layers]:
    """All stable points of a grid around 0 that have the least sum."""
    ticks = [step * k for k in range(int(-2 / step), int(2 / step) + 1)]
    points = sorted(product(ticks, repeat=3), key=sum)
    least = next(sum(c) for c in points if stable(of, optimizer, alignment, c))
    return [Layers(*c) for c in points if sum(c) == least and stable(of, optimizer, alignment, c)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_a_search_finds_the_same_rates_and_no_others(parameterisation: str, optimizer: str) -> None:
    half, mid, one = Fraction(1, 2), Fraction(3, 4), Fraction(1)
    of = PARAMETERISATIONS[parameterisation]
    for alignment in (*ALIGNMENTS.values(), Alignment(one, one, half, one)):
        assert best_on_a_grid(of, optimizer, alignment, half) == [exponents(of, optimizer, alignment).rate]
    alignment = Alignment(mid, mid, half)
    assert best_on_a_grid(of, optimizer, alignment, Fraction(1, 4)) == [exponents(of, optimizer, alignment).rate]


def test_a_choice_of_several_is_an_error() -> None:
    half, mid, one = Fraction(1, 2), Fraction(3, 4), Fraction(1)
    loose = Alignment(mid, one, half)
    assert len(best_on_a_grid(PARAMETERISATIONS["mup"], "sgd", loose, Fraction(1, 4))) > 1
    with pytest.raises(NormcError, match="a choice of several"):
        exponents("mup", "sgd", loose)
    corner = Alignment(mid, half, half)  # four constraints meet there
    assert best_on_a_grid(PARAMETERISATIONS["mup"], "sgd", corner, Fraction(1, 4)) == [
        exponents("mup", "sgd", corner).rate
    ]


def shifted(by: Layers, of: Exponents, optimizer: str) -> tuple[Layers, Layers, Layers]:
    """a + by, b - by, and the rates that then train the same function."""
    share = {"sgd": 2, "adam": 1, "adafactor": 0}[optimizer]
    a, b, c = of.multiplier, of.init, of.rate
    return (
        Layers(*(x + y for x, y in zip(a, by, strict=True))),
        Layers(*(x - y for x, y in zip(b, by, strict=True))),
        Layers(*(x - share * y for x, y in zip(c, by, strict=True))),
    )


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("one", "two", "by"), [("standard", "ntk", "0 1/2 1/2"), ("mup", "mean-field", "1/2 1/2 1/2")])
def test_some_parameterisations_are_shifts_of_others(
    one: str, two: str, by: str, optimizer: str, alignment: str
) -> None:
    found = exponents(two, optimizer, alignment)
    expected = shifted(layers(by), exponents(one, optimizer, alignment), optimizer)
    assert (found.multiplier, found.init, found.rate) == expected


@pytest.mark.parametrize("width", [64, 1024])
def test_standard_adam_with_full_alignment_is_scions_sign(width: int) -> None:
    found = exponents("standard", "adam", "full")
    assert found.factors("embedding", width).lr == 1.0  # one-hot inputs: the unnormalised sign
    scale = float(norms["sign"].scale.subs({D_IN: width, D_OUT: width, KERNEL: 1}))
    assert found.factors("hidden", width).lr == found.factors("readout", width).lr == scale


@pytest.mark.parametrize(("alignment", "rank_one"), [("full", True), ("none", False)])
def test_alignment_is_the_operator_norm_of_an_update_of_signs(alignment: str, rank_one: bool) -> None:
    torch.manual_seed(0)
    found = exponents("mup", "adam", alignment)
    for width in (64, 256):
        signs = torch.randn(width, width).sign()
        update = signs[:, :1] * signs[:1] if rank_one else signs
        size = float(torch.linalg.matrix_norm(update * found.factors("hidden", width).lr, ord=2))
        assert size == pytest.approx(1.0 if rank_one else 2.0, rel=1e-5 if rank_one else 0.1)


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_gradients_have_the_size_that_is_said(parameterisation: str) -> None:
    of = PARAMETERISATIONS[parameterisation]
    sizes: list[list[float]] = []
    widths = (256, 1024)
    for n in widths:
        torch.manual_seed(0)
        shapes = ((n, 4), (n, n), (4, n))
        weights = [
            (torch.randn(shape) * float(n) ** -float(b)).requires_grad_()
            for shape, b in zip(shapes, of.init, strict=True)
        ]
        h = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
        for weight, a in zip(weights, of.multiplier, strict=True):
            h = float(n) ** -float(a) * (weight @ h)
        # A loss whose slope doesn't depend on the width, though logits do.
        (h * torch.randn(4, 16, generator=torch.Generator().manual_seed(1))).sum().backward()
        sizes.append([float(weight.grad.square().mean().sqrt()) for weight in weights if weight.grad is not None])
    for small, large, g in zip(*sizes, gradients(of), strict=True):
        assert math.log(small / large) / math.log(widths[1] / widths[0]) == pytest.approx(float(g), abs=0.1)


def test_factors_are_relative_to_the_width_that_was_tuned() -> None:
    found = exponents("mup", "adam", "full")
    assert found.factors("hidden", 4096, base=1024) == (1.0, 0.5, 0.25, 0.25)
    assert found.factors("embedding", 4096, base=1024) == (2.0, 0.5, 0.5, 0.5)
    assert found.factors("readout", 1024, base=1024) == (1.0, 1.0, 1.0, 1.0)


def test_mistakes_are_named() -> None:
    with pytest.raises(NormcError, match="did you mean 'standard'"):
        exponents("standart")
    with pytest.raises(NormcError, match="known: sgd, adam, adafactor"):
        exponents("mup", "muon")
    with pytest.raises(NormcError, match="no alignment 'half'"):
        exponents("mup", "adam", "half")
    with pytest.raises(NormcError, match="before any step"):
        exponents(Parameterisation(layers("0 0 0"), layers("0 0 1/2")))
    with pytest.raises(NormcError, match="no kind of layer"):
        exponents("mup").factors("head", 8)  # type: ignore[arg-type]
    with pytest.raises(NormcError, match="a width of 0"):
        exponents("mup").factors("hidden", 0)


def test_a_linear_program_by_hand() -> None:
    x, y = (Least.variable(place, 2) for place in range(2))
    one, two, three = map(Fraction, (1, 2, 3))
    assert minimise_sum([(x + x + y) - three, (x + y + y) - three]) == (one, one)
    assert minimise_sum([x - one, y - two, x + y - three]) == (one, two)
    with pytest.raises(NormcError):
        minimise_sum([x - one, x + y - three, y + two])  # all of an edge
    with pytest.raises(NormcError):
        minimise_sum([x - one, x - two])


HIDDEN = Rules(lr=1 / 4, weight_decay=4.0, epsilon=1 / 32, init=0.5, residual=1 / 8)


@pytest.mark.parametrize(
    ("part", "in_block", "expected"),
    [
        ("embedding", True, Rules()),
        ("hidden", True, HIDDEN),
        ("gain", True, Rules(epsilon=1 / 32, residual=1 / 8)),
        ("bias", True, Rules(epsilon=1 / 32, residual=1 / 8)),
        ("gain", False, Rules()),
        ("readout", True, Rules(multiplier=1 / 4)),
    ],
)
def test_completep_is_its_papers_table(part: Part, in_block: bool, expected: Rules) -> None:
    assert completep(part, width=4, depth=8, in_block=in_block) == expected


def test_depth_mup_and_mup_are_completep_with_other_numbers() -> None:
    half = completep("hidden", width=4, depth=16, alpha=0.5)
    assert half == Rules(lr=1 / 16, weight_decay=4.0, epsilon=1 / 16, init=0.5, residual=1 / 4)
    assert completep("gain", width=4, depth=16, alpha=0.5).lr == 1 / 4
    assert mup("hidden", 4) == Rules(lr=1 / 4, weight_decay=4.0, epsilon=1 / 4, init=0.5)
    with pytest.raises(NormcError, match="alpha of CompleteP"):
        completep("hidden", 2, 2, alpha=0.0)
    with pytest.raises(NormcError, match="no kind of parameter"):
        completep("head", 2, 2)  # type: ignore[arg-type]
    with pytest.raises(NormcError, match="width is -1"):
        mup("hidden", -1)


@pytest.mark.parametrize("part", ["embedding", "hidden", "readout"])
def test_mup_is_the_exponents_of_mup_moved_into_its_multipliers(part: Layer) -> None:
    # The table of muP for AdamW holds the embedding at its base; exponents hold activations at a = -1/2 and b = 1/2.
    found, table = exponents("mup", "adam", "full").factors(part, 16), mup(part, 16)
    assert found.multiplier * found.lr == pytest.approx(table.multiplier * table.lr)
    assert found.multiplier * found.init == pytest.approx(table.multiplier * table.init)


@pytest.mark.parametrize(
    ("part", "fan_in", "depth", "lr"),
    [
        ("embedding", 16, None, 1 / 4),
        ("hidden", 16, 3, 1 / 4 / math.sqrt(3)),
        ("bias", 16, 3, 1 / math.sqrt(3)),
        ("gain", 16, None, 1.0),
        ("readout", 16, None, 1.0),
        ("hidden", 64, 5, 1 / 8 / math.sqrt(5)),
    ],
)
def test_u_mup_has_its_packages_learning_rates(part: Part, fan_in: int, depth: int | None, lr: float) -> None:
    rules = u_mup(part, fan_in, depth)
    assert rules.lr == pytest.approx(lr)
    assert rules.lr * rules.weight_decay == pytest.approx(1.0)
    assert rules.init == 1.0
    assert rules.multiplier == {"hidden": fan_in**-0.5, "readout": 1 / fan_in}.get(part, 1.0)


@pytest.mark.parametrize(
    ("residual", "attention", "ratios"),
    [
        (1.0, 1.0, (0.57735, 0.5, 0.447214, 0.408248, 0.377964, 0.353553)),
        (0.5, 2.0, (0.365148, 0.171499, 0.338062, 0.160128, 0.316228, 0.150756)),
    ],
)
def test_u_mup_weighs_branches_as_its_package_does(
    residual: float, attention: float, ratios: tuple[float, ...]
) -> None:
    for branch, ratio in enumerate(ratios):
        of_branch, of_stream = u_mup_residual(branch, 6, residual, attention)
        assert of_branch / of_stream == pytest.approx(ratio, abs=1e-6)
        assert of_branch**2 + of_stream**2 == pytest.approx(1.0)


def test_u_mups_branches_add_up_to_what_is_asked_for() -> None:
    variances = [1.0]
    for branch in range(8):
        of_branch, of_stream = u_mup_residual(branch, 8, residual=0.5, attention=2.0)
        variances = [*(of_stream**2 * variance for variance in variances), of_branch**2]
    embedding, attention, mlp = variances[0], sum(variances[1::2]), sum(variances[2::2])
    assert attention / mlp == pytest.approx(4.0)
    assert (attention + mlp) / 2 / embedding == pytest.approx(0.25)
    with pytest.raises(NormcError, match="no branch 8 of 8"):
        u_mup_residual(8, 8)
    with pytest.raises(NormcError, match="must be positive"):
        u_mup_residual(0, 8, attention=0.0)
