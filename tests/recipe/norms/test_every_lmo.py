"""Every registered norm against formulas of its own in float64: alone, and through the step that is generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import sympy
import torch
from torch import Tensor

from normc.compiler import build
from normc.plans.geometry import norms
from normc.plans.plan import NormPlan
from normc.plans.row import Block, Row, Scale
from normc.update.ops.matrices import polar
from normc.update.polynomials.by_name import polynomial
from tests.handmade import draft

Matrix = npt.NDArray[np.float64]

# A norm and its dual of one matrix [out, in]; what is seen as a whole comes as one row.
NORM: dict[str, Callable[[Matrix], float]] = {
    "colnorm": lambda x: max((float(np.sqrt((column**2).sum())) for column in x.T), default=0.0),
    "frobenius": lambda x: float(np.sqrt((x**2).sum())),
    "rms": lambda x: float(np.sqrt((x**2).mean())) if x.size else 0.0,
    "rownorm": lambda x: max((float(np.sqrt((row**2).sum())) for row in x), default=0.0),
    "sign": lambda x: float(np.abs(x).max(initial=0.0)),
    "slices": lambda x: float(singular(x).max(initial=0.0)),
    "spectral": lambda x: float(singular(x).max(initial=0.0)),
}
DUAL: dict[str, Callable[[Matrix], float]] = {
    "colnorm": lambda x: float(np.sqrt((x**2).sum(0)).sum()),
    "frobenius": lambda x: float(np.sqrt((x**2).sum())),
    "rms": lambda x: float(np.sqrt((x**2).sum()) * np.sqrt(x.size)),
    "rownorm": lambda x: float(np.sqrt((x**2).sum(1)).sum()),
    "sign": lambda x: float(np.abs(x).sum()),
    "slices": lambda x: float(singular(x).sum()),
    "spectral": lambda x: float(singular(x).sum()),
}
EVERY = tuple(norms)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# What one rounding of every entry may do to a norm of a small matrix.
NEAR = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
# Powers of two by which entries of [1/16, 16] can be scaled without a bit lost.
POWERS = {dtype: range(-60, 61) if dtype != torch.float16 else range(-10, 12) for dtype in DTYPES}
SHAPES = [(3, 4, 6), (2, 6, 4), (2, 5, 5), (2, 1, 7), (2, 7, 1), (3, 1, 1)]
EMPTY = [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0), (1, 0, 0)]
POLYNOMIALS = ("exact", "polar-express", "minimax:degree=3,tolerance=0.3,lower=1e-2")
# Every norm in its exact form, and those that have one by Newton-Schulz.
NAMED = [
    (name, text)
    for name in EVERY
    for text in POLYNOMIALS
    if text == "exact" or norms[name].shape in ("matrix", "slices")
]


def singular(x: Matrix) -> Matrix:
    """Singular values, largest first."""
    return np.asarray(np.linalg.svd(x, compute_uv=False), np.float64) if x.size else np.zeros(0)


def test_every_norm_has_a_formula_here() -> None:
    assert set(NORM) == set(DUAL) == set(EVERY)


def directions(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 7) -> Tensor:
    """Random entries of either sign with absolute values from 1/16 to 16, in `dtype` without rounding."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(shape, generator=generator, dtype=torch.float64) * 8 - 4
    entries = torch.exp2(size) * (torch.randint(0, 2, shape, generator=generator) * 2 - 1)
    return entries.to(dtype)


def matrices(x: Tensor, name: str) -> list[Matrix]:
    """What a norm sees of a stack [N, out, in], in float64."""
    wide = x.detach().double().numpy()
    return [part.reshape(1, part.size) if norms[name].shape == "whole" else part for part in wide]


def certified(d: Tensor, step: Tensor, name: str, near: float, low: float = 1.0, high: float = 1.0) -> None:
    """The step of each matrix has norm one, and its product with the direction is the dual norm: within [low, high]."""
    for one, unit in zip(matrices(d, name), matrices(step, name), strict=True):
        assert low - near <= NORM[name](unit) <= high + near
        product, dual = float((one * unit).sum()), DUAL[name](one)
        assert dual * (low - near) <= product <= dual * (high + near)


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


def row_of(name: str, norm: str, shape: tuple[int, ...], dtype: torch.dtype, **facts: object) -> Row:
    """A row with this norm, scale one."""
    kernel = {"kernel_axes": (2, 3)} if len(shape) == 4 else {}
    row = draft(name, shape, "hidden" if len(shape) > 1 else "bias", **kernel, **facts)
    blocks = max(len(row.blocks), 1)
    text = str(dtype).removeprefix("torch.")
    return replace(row, dtype=text, norm=norm, rule="lmo", target=1.0, scale=Scale(sympy.Integer(1), (1.0,) * blocks))


class Steps:
    """Runs the generated update of some rows, from weights of zero: lr one, no decay."""

    def __init__(
        self,
        rows: list[Row],
        dtype: torch.dtype,
        polynomials: str = "exact",
        backend: str = "cpu",
        momentum: float = 0.0,
    ) -> None:
        plan = NormPlan(tuple(rows), "Hand", "uscion", (("polynomial", polynomials),), ())
        self.named = {row.name: torch.nn.Parameter(torch.zeros(row.shape, dtype=dtype)) for row in rows}
        named = self.named.items()
        self.optimizer = build(plan, named, lr=1.0, momentum=momentum, backend=backend, compile=False)

    def __call__(self, *grads: list[Tensor]) -> list[Tensor]:
        """What steps with these gradients add to the weights, against the direction."""
        self.optimizer.state.clear()
        for parameter in self.named.values():
            parameter.data.zero_()
        for step in grads:
            for parameter, grad in zip(self.named.values(), step, strict=True):
                parameter.grad = grad
            self.optimizer.step()
        return [-parameter.detach() for parameter in self.named.values()]


def seen(x: Tensor, name: str) -> Tensor:
    """A parameter as the stack of matrices that its norm sees."""
    if x.dim() == 4:
        return x.permute(2, 3, 0, 1).flatten(0, 1) if norms[name].shape == "slices" else x.flatten(1).unsqueeze(0)
    return x.unsqueeze(0) if x.dim() == 2 else x.reshape(1, 1, -1)


PARAMETERS = [(4, 6), (6, 4), (5, 5), (1, 7), (7, 1), (1, 1), (4, 3, 2, 2), (2, 9, 3, 1)]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_generated_steps_have_norm_one_and_certify_the_dual_norm(name: str, dtype: torch.dtype, backend: str) -> None:
    rows = [row_of(f"w{index}", name, shape, dtype) for index, shape in enumerate(PARAMETERS)]
    grads = [directions(shape, dtype, seed) for seed, shape in enumerate(PARAMETERS)]
    for grad, step in zip(grads, Steps(rows, dtype, backend=backend)(grads), strict=True):
        certified(seen(grad, name), seen(step, name), name, NEAR[dtype])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("text", POLYNOMIALS[1:])
@pytest.mark.parametrize("name", ["spectral", "slices"])
def test_generated_newton_schulz_is_within_what_its_polynomials_guarantee(name: str, text: str, backend: str) -> None:
    low, high = polynomial(text, 5).leaves
    grads = []
    for shape in PARAMETERS:
        grad = directions(shape, torch.float32)
        u, s, v = torch.linalg.svd(seen(grad, name), full_matrices=False)
        spread = (u * (0.2 + s / s.amax(-1, keepdim=True)).unsqueeze(-2)) @ v  # no singular value below the least
        if name == "slices" and len(shape) == 4:
            spread = spread.reshape(*shape[2:], *shape[:2]).permute(2, 3, 0, 1)
        grads.append(spread.reshape(shape))
    rows = [row_of(f"w{index}", name, shape, torch.float32) for index, shape in enumerate(PARAMETERS)]
    for grad, step in zip(grads, Steps(rows, torch.float32, text, backend)(grads), strict=True):
        certified(seen(grad, name), seen(step, name), name, 1e-4, low, high)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "text"), NAMED)
def test_generated_steps_are_the_same_bit_for_bit_at_any_scale(
    name: str, text: str, dtype: torch.dtype, backend: str
) -> None:
    """Three steps with momentum: gradients times 2^k give the same weights."""
    shapes = [(4, 6), (7, 1), (4, 3, 2, 2)]
    rows = [row_of(f"w{index}", name, shape, dtype) for index, shape in enumerate(shapes)]
    grads = [[directions(shape, dtype, seed + index) for index, shape in enumerate(shapes)] for seed in (0, 10, 20)]
    steps = Steps(rows, dtype, text, backend, momentum=0.9)
    plain = steps(*grads)
    assert all(one.any() for one in plain)
    for power in POWERS[dtype][:: 10 if backend == "cpu" else 60]:
        scaled = [[(grad.double() * 2.0**power).to(dtype) for grad in step] for step in grads]
        for ours, theirs in zip(steps(*scaled), plain, strict=True):
            assert torch.equal(ours, theirs), power


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "text"), NAMED)
def test_generated_steps_of_zero_empty_and_strided_gradients(
    name: str, text: str, dtype: torch.dtype, backend: str
) -> None:
    """In one stack: a gradient of zeros gives no step, an empty parameter none, and layout makes no difference."""
    shapes = [(4, 6), (4, 6), (4, 6), (0, 6), (4, 0), (4, 6)]
    grad = directions((4, 6), dtype)
    turned = grad.mT.contiguous().mT
    spaced = torch.stack([grad, grad], -1)[..., 1]
    assert not turned.is_contiguous()
    assert not spaced.is_contiguous()
    rows = [row_of(f"w{index}", name, shape, dtype) for index, shape in enumerate(shapes)]
    empty = [torch.zeros(shape, dtype=dtype) for shape in shapes[3:5]]
    grads = [grad, torch.zeros_like(grad), turned, *empty, spaced]
    steps = Steps(rows, dtype, text, backend)(grads)
    assert torch.isfinite(torch.stack([steps[0], steps[2], steps[5]])).all()
    assert torch.equal(steps[1], torch.zeros_like(grad))
    for other in (steps[2], steps[5]):
        torch.testing.assert_close(other, steps[0], rtol=NEAR[dtype], atol=NEAR[dtype])
    assert [steps[3].shape, steps[4].shape] == [(0, 6), (4, 0)]


@pytest.mark.parametrize(("name", "text"), NAMED)
def test_generated_steps_of_vectors_and_scalars(name: str, text: str) -> None:
    shapes: list[tuple[int, ...]] = [(5,), (1,), ()]
    rows = [row_of(f"w{index}", name, shape, torch.float32) for index, shape in enumerate(shapes)]
    grads = [directions(shape, torch.float32) for shape in shapes]
    low, high = polynomial(text, 5).leaves if norms[name].shape in ("matrix", "slices") else (1.0, 1.0)
    for grad, step in zip(grads, Steps(rows, torch.float32, text)(grads), strict=True):
        assert step.shape == grad.shape
        # A vector is a matrix of one column, as its axis is fan-out.
        tall = [x.reshape(1, -1, 1) for x in (grad, step)]
        certified(tall[0], tall[1], name, 1e-4, low, high)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", EVERY)
def test_generated_steps_of_each_block_have_norm_one(name: str, axis: int, interleaved: bool) -> None:
    """q, k and v in one matrix, side by side or in turns: each is a matrix of its own."""
    shape = (12, 8) if axis == 0 else (8, 12)
    if interleaved:
        spans = [tuple((head * 6 + i * 2, head * 6 + i * 2 + 2) for head in range(2)) for i in range(3)]
    else:
        spans = [((i * 4, i * 4 + 4),) for i in range(3)]
    blocks = tuple(Block(label, axis, own) for label, own in zip("qkv", spans, strict=True))
    grad = directions(shape)
    grad *= torch.logspace(-3, 3, 12, dtype=torch.float64).reshape((12, 1) if axis == 0 else (1, 12))
    (step,) = Steps([row_of("w", name, shape, torch.float64, blocks=blocks)], torch.float64)([grad])
    for own in spans:
        index = torch.cat([torch.arange(start, stop) for start, stop in own])
        parts = [x.index_select(axis, index).unsqueeze(0) for x in (grad, step)]
        certified(parts[0], parts[1], name, 1e-11)


@pytest.mark.parametrize("name", EVERY)
def test_generated_steps_of_stacked_and_turned_matrices(name: str) -> None:
    """Experts are matrices of their own; a weight stored [in, out] is turned first."""
    experts = row_of("w0", name, (3, 4, 6), torch.float64, block_axes=(0,), out_axes=(1,), in_axes=(2,))
    turned = row_of("w1", name, (4, 6), torch.float64, out_axes=(1,), in_axes=(0,))
    grads = [directions((3, 4, 6)), directions((4, 6))]
    steps = Steps([experts, turned], torch.float64)(grads)
    certified(grads[0], steps[0], name, 1e-11)
    certified(grads[1].mT[None], steps[1].mT[None], name, 1e-11)


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
