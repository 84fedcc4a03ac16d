"""Every registered norm through the step that is generated, against formulas of its own in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sympy
import torch
from torch import Tensor

from normc.compiler import build
from normc.plans.geometry import norms
from normc.plans.plan import NormPlan
from normc.plans.row import Block, Row, Scale
from normc.update.polynomials.by_name import polynomial
from tests.handmade import draft
from tests.recipe.norms.formulas import DTYPES, EVERY, NEAR, POWERS, certified, directions

POLYNOMIALS = ("exact", "polar-express", "minimax:degree=3,tolerance=0.3,lower=1e-2")
# Every norm in its exact form, and those that have one by Newton-Schulz.
NAMED = [
    (name, text)
    for name in EVERY
    for text in POLYNOMIALS
    if text == "exact" or norms[name].shape in ("matrix", "slices")
]


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
