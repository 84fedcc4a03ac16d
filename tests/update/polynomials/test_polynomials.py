"""Polynomials: computed ones equal the published tables, and every guaranteed interval holds."""

from __future__ import annotations

import io
import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from normc.errors import NormcError
from normc.tools.report.polynomials import show, table
from normc.update.ops.matrices import polar as newton_schulz
from normc.update.polynomials.by_name import KELLER, families, polynomial, polynomials
from normc.update.polynomials.composition import LEAST, Polynomial, polar, shown
from normc.update.polynomials.minimax import Coefficients, closest, image, stretched, value

# Polar Express, arXiv 2505.16932, algorithm 1, before its safety factor: lower 1e-3, cushion 0.02407327424182761.
PAPER: tuple[Coefficients, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
# modded-nanogpt's: five steps, safety factor 1.02, cushion 0.02.
NANOGPT: tuple[Coefficients, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# The reference implementation's: ten steps, safety factor 1.01, cushion 0.02; then its intervals count as points.
REFERENCE: tuple[Coefficients, ...] = (
    (8.237312490495558, -23.157747414558205, 16.68056841144592),
    (4.082441999064834, -2.893047735332586, 0.5252849256975647),
    (3.926347992254655, -2.85474680347653, 0.531802242289499),
    (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
    (2.297036943455258, -1.6366255812590327, 0.4002628455953635),
    (1.8763805351440446, -1.234789657772233, 0.3589188750166889),
    (1.8564423485588517, -1.2132449880877845, 0.35680034877976435),
)
# CANS, arXiv 2506.10935, appendix: seven cubics for a tolerance of .3.
CUBICS = (
    (5.181702879894027, -5.177039351076183),
    (2.585422564566848, -0.647862782007566),
    (2.565592012027513, -0.645264570196127),
    (2.516223347431526, -0.638782620243433),
    (2.401068707564606, -0.623585125272674),
    (2.170844761790119, -0.592849780534662),
    (1.839437716819516, -0.547668362229117),
)


def values(polynomial: Coefficients, s: torch.Tensor) -> torch.Tensor:
    """A polynomial, entry by entry."""
    a, b, c = polynomial
    return a * s + b * s**3 + c * s**5


def assert_near(steps: tuple[Coefficients, ...], table: tuple[Coefficients, ...], tolerance: float) -> None:
    for ours, theirs in zip(steps, table, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)


def test_polar_express_is_computed_as_published() -> None:
    assert_near(polar(5, 8, None, 1e-3, cushion=0.02407327424182761).steps, PAPER, 1e-9)
    assert_near(polar(5, 5, None, 1e-3, 1.02, 0.02).steps, NANOGPT, 1e-12)
    assert_near(polar(5, 10, None, 1e-3, 1.01, 0.02).steps[:7], REFERENCE, 1e-7)
    assert_near(polynomials("polar-express", 5), (stretched(NANOGPT[0], 1.02), *NANOGPT[1:]), 1e-12)


def test_cans_is_computed_as_published() -> None:
    """The published steps, for the lower that their first one was made for: it is that of a tolerance near .3."""
    low, high = 1e-5, 1e-1
    while high / low > 1 + 1e-15:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if closest(3, middle, 1.0)[0] > CUBICS[0][0] else (low, middle)
    found = polynomial(f"cans:degree=3,lower={low!r}", 7)
    assert_near(found.steps, tuple((a, b, 0.0) for a, b in CUBICS), 1e-6)
    assert found.error == pytest.approx(0.3, abs=5e-3)
    assert polynomial("cans:degree=3", 7).lower == pytest.approx(low, rel=2e-2)


def test_the_two_regimes_of_cans() -> None:
    """Steepest within a tolerance where nothing is known of the least singular value; else closest to one."""
    for degree in (3, 5):
        wide = polynomial(f"cans:degree={degree}", 5)
        assert wide.error == pytest.approx(0.3, abs=1e-4)
        assert wide.error <= 0.3
        assert wide.growth > polynomial("keller", 5).growth or degree == 3
        tighter = polynomial(f"cans:degree={degree},lower={wide.lower * 1.01!r}", 5)
        assert tighter.error < wide.error
        assert tighter.growth < wide.growth
        looser = polynomial(f"cans:degree={degree},lower={wide.lower * 0.99!r}", 5)
        assert looser.error > 0.3
    assert polynomial("cans:lower=1e-3,tolerance=0.01", 5).steps == polynomial("minimax:tolerance=0.01", 5).steps


@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("low", [1e-9, 1e-3, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_the_closest_polynomial_alternates(degree: int, low: float) -> None:
    """Chebyshev: it is the best one if the largest error is met degree/2 + 3/2 times, with alternating signs."""
    high = 1.7
    polynomial = closest(degree, low * high, high)
    s = torch.linspace(low * high, high, 200_001, dtype=torch.float64)
    error = values(polynomial, s) - 1.0
    largest = float(error.abs().max())
    met = error[error.abs() > largest * (1 - 1e-4) - 2e-15].sign()
    changes = 1 + int((met[1:] != met[:-1]).sum())
    assert changes >= (degree + 3) // 2
    assert -float(error.min()) == pytest.approx(float(error.max()), rel=1e-6, abs=1e-14)


TEXTS = [
    "keller", "polar-express", "cans", "cans:degree=3", "newton-schulz", "newton-schulz:degree=3", "minimax",
    "minimax:lower=1e-6,tolerance=0.3", "minimax:degree=3,tolerance=0.1", "minimax:safety=1.05,cushion=0.03",
    "minimax:lower=1e-12,tolerance=1e-9", "minimax:lower=0.99", "minimax:lower=auto,tolerance=0.01",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_every_guaranteed_interval_holds_and_is_tight(text: str) -> None:
    found = polynomial(text, 5)
    assert len(found.intervals) == len(found.steps)
    s = torch.cat(
        [
            torch.logspace(math.log10(found.lower), 0, 20_001, dtype=torch.float64),
            torch.linspace(found.lower, 1, 20_001, dtype=torch.float64),
        ]
    ).clamp(found.lower, 1.0)
    for step, (low, high) in zip(found.steps, found.intervals, strict=True):
        s = values(step, s)
        assert low - 1e-11 <= float(s.min()) <= low + 1e-4
        assert high - 1e-4 <= float(s.max()) <= high + 1e-11


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.tuples(*[st.floats(-30, 30)] * 3), st.floats(-2, 2), st.floats(0, 2), st.floats(0, 1))
def test_an_image_holds_every_value(polynomial: Coefficients, low: float, width: float, at: float) -> None:
    least, most = image(polynomial, (low, low + width))
    for s in (low, low + width, low + at * width):
        assert least - 1e-9 <= value(polynomial, s) <= most + 1e-9


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from([3, 5]), st.integers(1, 8), st.floats(1e-9, 0.9), st.floats(1, 1.1), st.floats(0, 0.1))
def test_polynomials_of_any_options_are_bounded(
    degree: int, steps: int, lower: float, safety: float, cushion: float
) -> None:
    found = polar(degree, steps, None, lower, safety, cushion)
    assert found.leaves[0] > 0
    assert found.leaves[1] < 2.01


def test_auto_takes_the_fewest_steps() -> None:
    for tolerance in (0.5, 0.3, 0.05, 1e-3, 1e-8):
        found = polar(5, "auto", tolerance, 1e-4)
        assert found.error <= tolerance
        with pytest.raises(NormcError, match=f"{len(found.steps) - 1} steps leave"):
            polar(5, len(found.steps) - 1, tolerance, 1e-4)
    assert polar() == polar(5, "auto", 0.3, 1e-3)
    assert len(polar().steps) == 5


def test_more_steps_come_closer_and_a_wider_interval_costs() -> None:
    errors = [polar(5, steps).error for steps in range(1, 9)]
    assert errors == sorted(errors, reverse=True)
    assert polar(5, 5, lower=1e-4).error > polar(5, 5, lower=1e-3).error
    assert polar(5, 5).error < polynomial("polar-express", 5).error < polynomial("keller", 5).error


def test_safety_stands_values_that_rounding_lifted() -> None:
    """A value that is too large by 1% at each step: with the safety factor it stays bounded, without it it does not."""
    for safety, bounded in ((1.02, True), (1.0, False)):
        s = torch.linspace(1e-3, 1, 10_001, dtype=torch.float64)
        worst = 0.0
        for step in polar(5, 12, None, 1e-12, safety).steps[:10]:
            s = values(step, s * 1.01)
            worst = max(worst, float(s.abs().max()))
        assert (worst < 2.05) == bounded


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kellr", "did you mean 'keller'"),
        ("minimax:lowr=3", "did you mean 'lower'"),
        ("minimax:lower", "no option 'lower'|give"),
        ("minimax:", "no option ''"),
        ("minimax:lower=0", "can't start in"),
        ("minimax:lower=2", "can't start in"),
        ("minimax:lower=nan", "can't be 'nan'"),
        ("keller:lower=0", "can't start in"),
        ("minimax:lower=1e-3,lower=1e-4", "twice"),
        ("minimax:steps=2.5", "whole number"),
        ("minimax:steps=0", "can't run 0 steps"),
        ("minimax:steps=31", "can't run 31 steps"),
        ("minimax:degree=7", "degree 7"),
        ("newton-schulz:degree=4", "degree 4"),
        ("minimax:tolerance=0", "tolerance of 0"),
        ("minimax:steps=2,tolerance=1e-9", "2 steps leave"),
        ("minimax:safety=1.9,tolerance=0.01", "30 steps leave"),
        ("minimax:safety=0.9", "safety factor"),
        ("minimax:cushion=1", "cushion"),
        ("minimax:lower=auto,steps=auto", "both be auto"),
        ("cans:steps=1,tolerance=1e-12", "1 steps leave"),
        ("keller:steps=auto", "can't run auto steps"),
        ("polar-express:safety=__import__('os')", "can't be"),
        ("exact:lower=1", "no option"),
    ],
)
def test_mistakes_are_told(text: str, says: str) -> None:
    with pytest.raises(NormcError, match=says):
        polynomial(text, 5)


def test_steps_that_no_recipe_may_ask_for() -> None:
    for name in ("keller", "polar-express", "newton-schulz", "cans", "minimax"):
        for steps in (0, -1, 31):
            with pytest.raises(NormcError, match=f"can't run {steps} steps"):
                polynomials(name, steps)
    assert polynomials("exact", 5) == ()


def test_texts_and_numbers_name_the_same() -> None:
    assert polynomials("keller", 3) == (KELLER,) * 3
    assert polynomials("minimax", 6) == polar(5, 6).steps
    assert polynomials("minimax: steps=6 , lower=1E-3", 2) == polar(5, 6).steps
    assert polynomials("minimax:tolerance=0.05", 1) == polar(5, "auto", 0.05).steps
    assert polynomials("newton-schulz:degree=3", 2) == ((1.5, -0.5, 0.0),) * 2
    assert polynomial("minimax:lower=auto,tolerance=0.3,steps=30", 5).lower == LEAST


def test_each_is_quick_to_derive() -> None:
    for text in TEXTS:
        polynomial.cache_clear()
        polar.cache_clear()
        start = time.process_time()
        polynomial(text, 7)
        assert time.process_time() - start < 0.5  # a tenth of that on an idle machine


def test_text_of_a_polynomial_says_what_it_guarantees() -> None:
    lines = str(polar(3, 2, lower=0.1)).splitlines()
    assert lines[0] == "minimax: 2 steps, 4 matrix products"
    assert lines[1] == "  singular values of [0.1, 1] end in [0.6932, 1.3068]; those near zero grow 7.331 times"
    assert lines[2].endswith(f" s^3  leaves {shown(polar(3, 2, lower=0.1).intervals[0])}")
    assert "SVD" in str(polynomial("exact", 5))


def test_intervals_are_shown_rounded_outwards() -> None:
    assert shown((0.84661, 1.14118)) == "[0.8466, 1.1412]"
    assert shown((0.999079, 1.000921)) == "[0.99907, 1.00093]"
    assert shown((1.0, 1.0)) == "[1.0000, 1.0000]"
    assert shown((3.61e-6, 1.9999)) == "[0.0000036, 1.9999001]"


def rendered(what: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(what)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    return text


def test_the_table_has_every_family() -> None:
    text = rendered(table())
    for name in families:
        assert f"\n{name} " in text
    assert "[0.8466, 1.1412]" in text
    assert "leaves [0.003, 1] in" in rendered(table(4, 3e-3))
    assert "[0.001, 1] end in [0.8865, 1.1135]" in rendered(show("minimax"))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_newton_schulz_leaves_singular_values_where_it_is_guaranteed(text: str, dtype: torch.dtype) -> None:
    found = polynomial(text, 5)
    generator = torch.Generator().manual_seed(3)
    u, _ = torch.linalg.qr(torch.randn(2, 24, 12, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(2, 12, 12, generator=generator, dtype=torch.float64))
    start = max(found.lower, 1e-5)
    spread = torch.logspace(math.log10(start), 0, 12, dtype=torch.float64)
    left = torch.linalg.svdvals(newton_schulz(((u * spread) @ v.mT).to(dtype), found.steps).double())
    # Newton-Schulz starts from Frobenius norm one. Values at the lower end are left to rounding in float32.
    kept = int((spread / torch.linalg.vector_norm(spread) >= found.lower).sum())
    low, high = found.leaves
    margin = 1e-9 if dtype == torch.float64 else 1e-3
    assert float(left.max()) <= high + margin
    if kept > 0:
        assert float(left[:, :kept].min()) >= low - margin


def test_a_cubic_equals_a_quintic_without_its_last_term() -> None:
    x = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cubic: tuple[Coefficients, ...] = ((1.5, -0.5, 0.0),)
    y = x / torch.linalg.matrix_norm(x)[:, None, None]
    torch.testing.assert_close(newton_schulz(x, cubic), 1.5 * y - 0.5 * y @ y.mT @ y)


def test_what_is_made_is_the_same_object_again() -> None:
    assert polynomial("minimax:tolerance=0.1", 5) is polynomial("minimax:tolerance=0.1", 5)
    assert isinstance(polar(), Polynomial)
    assert hash(polar()) == hash(polar())
