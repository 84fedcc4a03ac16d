"""Matrices scaled to Frobenius norm one in kernels: in Triton's interpreter, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from normc.update.kernels.language import BLOCK
from tests.update.kernels.interpreting import interpreted
from tests.update.kernels.spectra import adversarial, error, reference

pytest.importorskip("triton")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def kernels() -> Iterator[SimpleNamespace]:
    with interpreted(("normalise",)) as modules:
        yield modules


def room(x: Tensor, dtype: torch.dtype, more: int = 0) -> Tensor:
    """For x, filled up; nothing of it may stay."""
    return torch.full((x.shape[0], x.shape[1] + more, x.shape[2] + more), float("nan"), dtype=dtype, device=x.device)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (17, 33), (5, 700), pytest.param(130, 70, marks=pytest.mark.slow)])
def test_against_float64(kernels: SimpleNamespace, n: int, m: int) -> None:
    torch.manual_seed(0)
    for x in (
        torch.randn(2, n, m),
        torch.randn(2, m, n).mT,
        torch.randn(4, n, 2 * m)[::2, :, ::2],
        torch.zeros(1, n, m),
    ):
        for dtype, bound in ((torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
            y = kernels.normalise.normalise(x, room(x, dtype, 7), 4.0)
            assert error(y[:, :n, :m], 4.0 * reference(x, ())) < bound
            assert not y[:, n:].any()
            assert not y[:, :, m:].any()


def written(x: Tensor, parts: int = 2) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """A stack in fp16 as generated kernels write it, and what they measure of it."""
    blocks = -(-x[0].numel() // BLOCK)
    filled = torch.zeros(x.shape[0], blocks * BLOCK).double()
    filled[:, : x[0].numel()] = x.flatten(1)
    spans = filled.unflatten(1, (blocks, BLOCK))
    exponents = torch.frexp(spans.abs().amax(2)).exponent - 1
    scales = torch.where(spans.any(2), 2.0**-exponents, 1.0).float()
    stack = (spans * scales[:, :, None]).flatten(1)[:, : x[0].numel()].reshape(x.shape).half()
    own = [filled.unflatten(1, (blocks, BLOCK))[:, part::parts].flatten(1) for part in range(min(parts, blocks))]
    peaks = torch.stack([one.abs().amax(1) for one in own], 1)
    powers = torch.where(peaks > 0, 2.0 ** (1 - torch.frexp(peaks).exponent.double()), 1.0)
    totals = torch.stack([(one * power[:, None]).square().sum(1) for one, power in zip(own, powers.T, strict=True)], 1)
    return stack, (scales, peaks.float(), totals.float())


@pytest.mark.parametrize(("n", "m"), [(1, 1), (17, 33), (70, 130), (64, 64)])
def test_stacks_that_are_written_scaled(kernels: SimpleNamespace, n: int, m: int) -> None:
    """As exact as fp16 is, whatever entries are like elsewhere in a matrix; in place."""
    x = torch.randn(3, n, m, generator=torch.Generator().manual_seed(0)).double() * 1e-12
    x[1] = 0.0
    x[2].view(-1)[: n * m // 2] *= 1e9
    stack, sums = written(x)
    found = kernels.normalise.unit_norm(stack, sums)
    assert found.data_ptr() == stack.data_ptr()
    length = kernels.normalise.starting_norm(min(n, m), torch.float16)
    assert error(found, length * reference(x, ())) < 4e-4
    assert not found[1].any()


def test_rows_that_nobody_wrote_stay_zero(kernels: SimpleNamespace) -> None:
    sums = (torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    assert not kernels.normalise.unit_norm(torch.zeros(1, 8, 8, dtype=torch.float16), sums).any()


def test_a_power_of_two_changes_nothing(kernels: SimpleNamespace) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 60, 300)
    x[1, :7] *= 1e-7
    expected = kernels.normalise.normalise(x, room(x, torch.float16), 8.0)
    for k in (-90, -7, 1, 60):
        assert torch.equal(kernels.normalise.normalise(x * 2.0**k, room(x, torch.float16), 8.0), expected)


@pytest.mark.slow
def test_adversarial(kernels: SimpleNamespace) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for x in adversarial(9, 300, dtype):
            y = kernels.normalise.normalise(x, room(x, torch.float32), 1.0)
            assert torch.allclose(y.double(), reference(x, ()), atol=1e-6)


def test_empty(kernels: SimpleNamespace) -> None:
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        x = torch.ones(shape)
        assert kernels.normalise.normalise(x, room(x, torch.float16), 1.0).shape == shape


@cuda
@pytest.mark.parametrize(("n", "m"), [(1, 1), (769, 1000), (1600, 6400), (64, 9000)])
def test_on_a_gpu(n: int, m: int) -> None:
    from normc.update.kernels.normalise import normalise

    x = torch.randn(3, n, m, device="cuda")
    for own in (x, x.mT.contiguous().mT, x.bfloat16()):
        y = normalise(own, room(own, torch.float16, 7), 4.0)
        assert error(y[:, :n, :m], 4.0 * reference(own, ())) < 1e-3
        assert not y[:, n:].any()
        assert torch.equal(normalise(own * 2.0**-40, room(own, torch.float16, 7), 4.0), y)
