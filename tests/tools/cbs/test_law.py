"""The law of steps and batch sizes: known laws are found again, in exact and noisy data and in the paper's own."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normc.cbs import Law, fit
from normc.errors import NormcError

SIZES = tuple(2.0**k for k in range(6, 15))
# 2410.21676: steps to each model's target at the batch sizes above, by the parameters in millions (its repository).
PAPER = {
    85: (46000, 23000, 13282, 7000, 3840, 2528, 1917, 1600, 1600),
    151: (96000, 49000, 24000, 12000, 7128, 4350, 2940, 2400, 2300),
    302: (196000, 90000, 46000, 23400, 13300, 7224, 4980, 3400, 2879),
    604: (311000, 166000, 81000, 37440, 21320, 11400, 7199, 4700, 3800),
    1200: (642000, 331000, 176000, 94000, 46500, 25000, 15360, 8900, 6500),
}


def made(a: float, b: float, alpha: float, sizes: tuple[float, ...] = SIZES) -> list[float]:
    return [a + b / size**alpha for size in sizes]


@given(a=st.floats(1, 1e4), work=st.floats(1, 1e3), alpha=st.sampled_from((0.5, 0.8, 1.0, 1.3)), known=st.booleans())
def test_an_exact_law_is_found_again(a: float, work: float, alpha: float, known: bool) -> None:
    b = a * work * 64**alpha
    law = fit(SIZES, made(a, b, alpha), alpha=alpha if known else None)
    assert law.alpha == pytest.approx(alpha, rel=1e-5)
    assert (law.a, law.b) == pytest.approx((a, b), rel=1e-4)
    assert max(map(abs, law.residuals)) < 1e-5


def test_a_noisy_law_is_found_again_nearly() -> None:
    draw = random.Random(0)
    found = []
    for number in range(40):
        steps = [count * math.exp(draw.gauss(0, 0.03)) for count in made(500, 400_000, 1.0)]
        found.append(fit(SIZES, steps, optimal=64))
        assert found[-1].critical == pytest.approx(1.2 * 64 + 0.2 * 800, rel=0.12)
        if number % 8 == 0:
            assert fit(SIZES, steps, alpha=None).alpha == pytest.approx(1, abs=0.1)
        low, high = found[-1].without_one()
        assert low <= found[-1].critical <= high
    assert math.fsum(law.a for law in found) / 40 == pytest.approx(500, rel=0.01)
    assert math.fsum(law.b for law in found) / 40 == pytest.approx(400_000, rel=0.01)


def test_the_papers_numbers_give_the_papers_law() -> None:
    sizes = {millions: fit(SIZES, steps, optimal=256).critical for millions, steps in PAPER.items()}
    x, y = [math.log(size) for size in sizes], [math.log(critical) for critical in sizes.values()]
    mean_x, mean_y = sum(x) / 5, sum(y) / 5
    slope = sum((p - mean_x) * (q - mean_y) for p, q in zip(x, y, strict=True)) / sum((p - mean_x) ** 2 for p in x)
    assert slope == pytest.approx(0.47, abs=0.005)
    assert math.exp(mean_y - slope * mean_x) == pytest.approx(93.20, abs=0.1)


@pytest.mark.parametrize("alpha", [0.6, 1.0, 1.7])
def test_the_critical_batch_needs_a_fifth_more(alpha: float) -> None:
    law = fit(SIZES, made(300, 90_000, alpha), alpha=alpha, optimal=128)
    assert law.examples(law.critical) == pytest.approx(1.2 * law.examples(128))
    assert law.examples(1.01 * law.critical) > 1.2 * law.examples(128)
    if alpha == 1:
        assert law.critical == pytest.approx(1.2 * 128 + 0.2 * 300)
    double = fit(SIZES, made(300, 90_000, alpha), alpha=alpha, optimal=128, overhead=1.0)
    assert double.examples(double.critical) == pytest.approx(2 * law.examples(128))


def test_the_optimal_batch_is_the_one_with_the_fewest_examples() -> None:
    assert fit((8, 16, 32, 64), (1000, 450, 300, 250)).optimal == 16
    assert fit((8, 16, 32, 64), (1000, 450, 300, 250), optimal=8).optimal == 8


def test_what_never_wastes_has_no_critical_batch() -> None:
    law = fit(SIZES, made(0, 1e6, 1.0))
    assert (law.a, law.critical, law.extrapolated) == (0, math.inf, True)
    assert law.b == pytest.approx(1e6)
    assert fit(SIZES, made(0, 1e6, 0.7), alpha=0.7, optimal=64).critical == pytest.approx(64 * 1.2 ** (1 / 0.3))


def test_what_batches_do_not_help_is_all_waste() -> None:
    law = fit(SIZES, [100.0] * len(SIZES))
    assert law.a == pytest.approx(100)
    assert law.b < 1e-2
    assert law.critical == pytest.approx(1.2 * 64, rel=1e-3)
    rising = fit(SIZES, [100.0 * size for size in SIZES])
    assert rising.b == 0


def test_bad_numbers_are_named() -> None:
    with pytest.raises(NormcError, match="fewer than 3 batch sizes"):
        fit((8, 16), (100, 60))
    with pytest.raises(NormcError, match="fewer than 3 batch sizes"):
        fit((8, 8, 16), (100, 99, 60))
    with pytest.raises(NormcError, match="fewer than 4 batch sizes"):
        fit((8, 16, 32), (100, 60, 50), alpha=None)
    with pytest.raises(NormcError, match="3 batch sizes and 2 numbers of steps"):
        fit((8, 16, 32), (100, 60))
    for bad in (0, -3, math.inf, math.nan):
        with pytest.raises(NormcError, match="one of steps is "):
            fit((8, 16, 32), (100, 60, bad))
    with pytest.raises(NormcError, match="alpha is"):
        fit((8, 16, 32), (100, 60, 50), alpha=0.0)
    with pytest.raises(NormcError, match="overhead"):
        fit((8, 16, 32), (100, 60, 50), overhead=0.0)


def test_a_law_is_what_it_says() -> None:
    law = Law(10, 640, 1, 16, 0.2, (16, 32, 64), (50, 33, 20))
    assert [law.predict(size) for size in law.batches] == [50, 30, 20]
    assert law.residuals == pytest.approx((0, 0.1, 0))
    assert law.critical == pytest.approx(1.2 * 16 + 0.2 * 64)
    assert not law.extrapolated
