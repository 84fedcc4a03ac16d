"""Matrices scaled to Frobenius norm one in kernels: in Triton's interpreter, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.kernels.interpreting import interpreted
from tests.kernels.spectra import adversarial, error, reference

pytest.importorskip("triton")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def kernels() -> Iterator[SimpleNamespace]:
    with interpreted(("normalise",)) as modules:
        yield modules


def room(x: Tensor, dtype: torch.dtype, more: int = 0) -> Tensor:
    """For x, filled up; nothing of it may stay."""
    return torch.full((x.shape[0], x.shape[1] + more, x.shape[2] + more), float("nan"), dtype=dtype, device=x.device)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (17, 33), (5, 700), (130, 70)])
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


def test_a_power_of_two_changes_nothing(kernels: SimpleNamespace) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 60, 300)
    x[1, :7] *= 1e-7
    expected = kernels.normalise.normalise(x, room(x, torch.float16), 8.0)
    for k in (-90, -7, 1, 60):
        assert torch.equal(kernels.normalise.normalise(x * 2.0**k, room(x, torch.float16), 8.0), expected)


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
    from normc.kernels.normalise import normalise

    x = torch.randn(3, n, m, device="cuda")
    for own in (x, x.mT.contiguous().mT, x.bfloat16()):
        y = normalise(own, room(own, torch.float16, 7), 4.0)
        assert error(y[:, :n, :m], 4.0 * reference(own, ())) < 1e-3
        assert not y[:, n:].any()
        assert torch.equal(normalise(own * 2.0**-40, room(own, torch.float16, 7), 4.0), y)
