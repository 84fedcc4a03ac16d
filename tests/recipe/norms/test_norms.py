"""Every registered norm: its unit step has norm one and is its own dual certificate, whatever it is given."""

from __future__ import annotations

import pytest
import torch

from normc.plans.geometry import norms
from normc.update.ops.matrices import fold, place, polar, take, unfold, unit
from normc.update.polynomials.by_name import KELLER, polynomials
from normc.update.polynomials.composition import composed

POLAR_EXPRESS = polynomials("polar-express", 5)

SHAPES = [(3, 4, 6), (2, 6, 4), (1, 5, 5), (2, 1, 7), (2, 7, 1), (1, 1, 1)]


def directions(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", list(norms))
def test_unit_step_has_norm_one_and_certifies_its_dual(name: str, shape: tuple[int, ...]) -> None:
    norm, d = norms[name], directions(shape)
    step = norm.lmo(d)
    torch.testing.assert_close(norm.measure(step), torch.ones(shape[0], dtype=torch.float64))
    torch.testing.assert_close((d * step).sum((1, 2)), norm.dual(d))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(norms))
def test_scaling_by_powers_of_two_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    d = directions((2, 4, 3), dtype)
    for power in (-6, 1, 8):
        assert torch.equal(norms[name].lmo(d), norms[name].lmo(d * 2.0**power))
    assert norms[name].lmo(d).dtype == dtype


@pytest.mark.parametrize("name", list(norms))
def test_extreme_scales_neither_vanish_nor_overflow(name: str) -> None:
    d = directions((2, 4, 3), torch.float32)
    for power in (-100, 100):
        assert torch.equal(norms[name].lmo(d), norms[name].lmo(d * 2.0**power))


@pytest.mark.parametrize("name", list(norms))
def test_zero_empty_and_strided_inputs(name: str) -> None:
    lmo = norms[name].lmo
    assert torch.equal(lmo(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))
    assert lmo(torch.zeros(0, 3, 4)).shape == (0, 3, 4)
    assert lmo(torch.zeros(2, 0, 4)).shape == (2, 0, 4)
    d = directions((2, 6, 3))
    torch.testing.assert_close(lmo(d.mT), lmo(d.mT.contiguous()))
    half_zero = torch.cat([d, torch.zeros_like(d)])
    torch.testing.assert_close(lmo(half_zero)[:2], lmo(d))
    assert not lmo(half_zero)[2:].any()


def test_spectral_of_a_deficient_matrix_leaves_the_null_space_alone() -> None:
    d = torch.outer(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([3.0, 0.0, 4.0, 0.0]))[None]
    expected = d / 15
    torch.testing.assert_close(norms["spectral"].lmo(d), expected)
    assert int(torch.linalg.matrix_rank(norms["spectral"].lmo(d.double()))) == 1


@pytest.mark.parametrize(("steps", "low", "high"), [(POLAR_EXPRESS, 0.858, 1.142), ((KELLER,) * 5, 0.68, 1.21)])
def test_newton_schulz_keeps_directions_and_bounds_singular_values(
    steps: tuple[tuple[float, float, float], ...], low: float, high: float
) -> None:
    d = directions((3, 8, 5))
    step, exact = polar(d, steps), norms["spectral"].lmo(d)
    values = torch.linalg.svdvals(step)
    assert low <= float(values.min())
    assert float(values.max()) <= high
    # Only singular values differ from U V^T: their product with it is symmetric.
    product = step.mT @ exact
    torch.testing.assert_close(product, product.mT, atol=1e-10, rtol=0)
    torch.testing.assert_close(polar(d.mT, steps), step.mT)
    assert torch.equal(polar(d * 2.0**40, steps), step)
    assert not polar(torch.zeros(1, 3, 4), steps).any()


def test_polynomials_leave_the_ranges_that_are_documented() -> None:
    low, high = composed("", POLAR_EXPRESS, 3e-3).leaves
    assert (round(low, 3), round(high, 3)) == (0.859, 1.141)
    low, high = composed("", (KELLER,) * 5, 1e-2).leaves
    assert (round(low, 2), round(high, 2)) == (0.68, 1.13)
    assert polynomials("exact", 5) == ()


def test_unit_of_a_zero_and_of_an_empty_vector() -> None:
    assert torch.equal(unit(torch.zeros(2, 3), (1,)), torch.zeros(2, 3))
    assert unit(torch.zeros(2, 0), (1,)).shape == (2, 0)


def test_views_invert_each_other() -> None:
    x = directions((2, 6, 5, 2))
    view = {"sizes": (2, 3, 5, 2), "order": (0, 2, 1, 3), "shape": (2, 5, 6)}
    assert torch.equal(unfold(fold(x, **view), **view, parameter=(6, 5, 2)), x)  # type: ignore[arg-type]
    spans = (((0, 1), (4, 6)), ((1, 4),))
    parts = [take(x, 0, own) for own in spans]
    assert [part.shape[1] for part in parts] == [3, 3]
    assert torch.equal(place(parts, 0, spans), x)
