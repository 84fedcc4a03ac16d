"""Every registered norm's LMO, norm and dual against formulas of its own in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normc.plans.geometry import norms
from normc.update.ops.matrices import polar
from normc.update.polynomials.by_name import polynomial
from tests.recipe.norms.formulas import (
    DTYPES,
    DUAL,
    EVERY,
    NEAR,
    NORM,
    POWERS,
    certified,
    directions,
    matrices,
    singular,
)  # fmt: skip

SHAPES = [(3, 4, 6), (2, 6, 4), (2, 5, 5), (2, 1, 7), (2, 7, 1), (3, 1, 1)]
EMPTY = [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0), (1, 0, 0)]


def test_every_norm_has_a_formula_here() -> None:
    assert set(NORM) == set(DUAL) == set(EVERY)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", EVERY)
def test_unit_step_has_norm_one_and_certifies_the_dual_norm(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    d = directions(shape, dtype)
    step = norms[name].lmo(d)
    assert step.dtype == dtype
    assert step.shape == d.shape
    certified(d, step, name, NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, *EMPTY])
@pytest.mark.parametrize("name", EVERY)
def test_norm_and_dual_agree_with_the_formulas(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    norm, d = norms[name], directions(shape, dtype)
    measured, dual = norm.measure(d), norm.dual(d)
    assert measured.shape == dual.shape == shape[:1]
    for index, one in enumerate(matrices(d, name)):
        assert float(measured[index]) == pytest.approx(NORM[name](one), rel=NEAR[dtype])
        assert float(dual[index]) == pytest.approx(DUAL[name](one), rel=NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_norm_and_dual_stand_the_largest_and_least_numbers(name: str, dtype: torch.dtype) -> None:
    """Squares and sums of numbers near the ends of a dtype are past them."""
    for size in (torch.finfo(dtype).max / 64, torch.finfo(dtype).smallest_normal * 64):
        d = (directions((2, 4, 3)) / 32 * size).to(dtype)
        for index, one in enumerate(matrices(d, name)):
            scale = float(np.abs(one).max())
            assert float(norms[name].measure(d)[index]) == pytest.approx(
                NORM[name](one / scale) * scale, rel=NEAR[dtype]
            )
            assert float(norms[name].dual(d)[index]) == pytest.approx(DUAL[name](one / scale) * scale, rel=NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", EVERY)
def test_scaling_by_a_power_of_two_changes_no_bit(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    lmo, d = norms[name].lmo, directions(shape, dtype)
    step = lmo(d)
    for power in POWERS[dtype]:
        scaled = (d.double() * 2.0**power).to(dtype)
        assert torch.equal(scaled.double(), d.double() * 2.0**power), "the test's own entries lost bits"
        assert torch.equal(lmo(scaled), step), power


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_the_largest_and_least_numbers_of_a_dtype(name: str, dtype: torch.dtype) -> None:
    """No square overflows, none vanishes; where entries lose bits (subnormals) the step is one of what is left."""
    info = torch.finfo(dtype)
    for size in (info.max, info.max / 3, info.smallest_normal * 16, info.smallest_normal, info.smallest_normal / 16):
        d = (directions((2, 4, 3)) / 16 * size).to(dtype)
        step = norms[name].lmo(d)
        assert torch.isfinite(step).all()
        scale = float(d.double().abs().max())
        certified(d.double() / scale, step, name, NEAR[dtype])
    d = torch.zeros(1, 3, 4, dtype=dtype)
    d[0, 1, 2] = info.smallest_normal * info.eps  # the least number there is
    assert d.any()
    certified((d != 0).double(), norms[name].lmo(d), name, NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_entries_of_very_different_size(name: str, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    d = directions((2, 4, 3), torch.float64)
    d[0, 0, 0] = 16 * min(info.max / 32, 1e30)
    d[1, :, 1] = max(info.smallest_normal, 1e-30)
    d = d.to(dtype)
    scale = d.double().abs().amax((1, 2), keepdim=True)
    certified(d.double() / scale, norms[name].lmo(d), name, NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_zero_gives_zero(name: str, dtype: torch.dtype) -> None:
    lmo = norms[name].lmo
    for zero in (torch.zeros(2, 3, 4, dtype=dtype), -torch.zeros(2, 3, 4, dtype=dtype)):
        assert torch.equal(lmo(zero), zero.abs())
        assert not norms[name].measure(zero).any()
    mixed = torch.cat([directions((1, 3, 4), dtype), torch.zeros(1, 3, 4, dtype=dtype)])
    assert torch.equal(lmo(mixed)[1], torch.zeros(3, 4, dtype=dtype))
    torch.testing.assert_close(lmo(mixed)[:1], lmo(mixed[:1]))
    hole = directions((1, 3, 4), dtype)
    hole[0, 1], hole[0, :, 2] = 0, 0
    step = lmo(hole)
    assert float(step[hole == 0].abs().max()) <= 1e-15
    certified(hole, step, name, NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_rank_deficient(name: str, dtype: torch.dtype) -> None:
    """Of small whole numbers, so that the rank is that of the entries in every dtype."""
    generator = torch.Generator().manual_seed(5)
    for rank in (1, 2, 3):
        left = torch.randint(-2, 3, (2, 6, rank), generator=generator).double()
        right = torch.randint(-2, 3, (2, rank, 5), generator=generator).double()
        d = (left @ right).to(dtype)
        found = [np.linalg.matrix_rank(one) for one in matrices(d, "sign")]
        step = norms[name].lmo(d)
        certified(d, step, name, NEAR[dtype])
        if norms[name].shape in ("matrix", "slices"):
            assert [int((singular(one) > 0.1).sum()) for one in matrices(step, "sign")] == found
    ones = torch.ones(1, 4, 4, dtype=dtype)
    certified(ones, norms[name].lmo(ones), name, NEAR[dtype])


@pytest.mark.parametrize("name", EVERY)
def test_the_step_of_a_step_is_the_step(name: str) -> None:
    step = norms[name].lmo(directions((2, 4, 6)))
    torch.testing.assert_close(norms[name].lmo(step), step)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", EMPTY)
@pytest.mark.parametrize("name", EVERY)
def test_empty_stacks_and_matrices(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    step = norms[name].lmo(torch.zeros(shape, dtype=dtype))
    assert step.shape == shape
    assert step.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_layout_in_memory_is_all_the_same(name: str, dtype: torch.dtype) -> None:
    lmo, d = norms[name].lmo, directions((4, 6, 8), dtype)
    strided = [d.mT, d[::2], d[:, ::2], d[..., 1::3], d.permute(1, 2, 0), d[:, :1].expand(4, 5, 8), d.transpose(0, 1)]
    for view in strided:
        kept = view.clone()
        torch.testing.assert_close(lmo(view), lmo(view.contiguous()), rtol=NEAR[dtype], atol=NEAR[dtype])
        assert torch.equal(view, kept), "an LMO may not write to its direction"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("text", ["polar-express", "keller", "minimax:tolerance=0.3,safety=1.02"])
def test_newton_schulz_in_a_narrow_dtype(text: str, dtype: torch.dtype) -> None:
    """Rounding moves singular values by a few hundredths; scaling by powers of two still changes no bit."""
    found = polynomial(text, 5)
    low, high = found.leaves
    for shape in [(2, 16, 24), (2, 24, 16), (1, 1, 9), (1, 9, 1)]:
        u, s, v = torch.linalg.svd(directions(shape), full_matrices=False)
        d = ((u * (0.2 + s / s.amax(-1, keepdim=True)).unsqueeze(-2)) @ v).float()
        step = polar(d, found.steps, dtype)
        assert step.dtype == torch.float32
        values = torch.linalg.svdvals(step)
        assert low - 0.1 <= float(values.min())
        assert float(values.max()) <= high + 0.1
        for power in (-60, -7, 1, 60):
            assert torch.equal(polar(d * 2.0**power, found.steps, dtype), step)
    assert not polar(torch.zeros(2, 3, 4), found.steps, dtype).any()
    assert polar(torch.zeros(0, 3, 4), found.steps, dtype).shape == (0, 3, 4)
    for size in (1e-40, 1e38):
        assert torch.isfinite(polar(torch.full((1, 3, 4), size), found.steps, dtype)).all()
