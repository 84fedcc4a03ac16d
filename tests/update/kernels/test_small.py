"""Many small matrices in one launch: in Triton's interpreter, and on a GPU where there is one, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from tests.update.kernels.interpreting import interpreted
from tests.update.kernels.spectra import CUBIC, EXPRESS, SPECTRA, adversarial, error, reference, share, spectrum

pytest.importorskip("triton")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
# Of Gaussian matrices, relative: 16 bits are rounded ten times on the way.
BOUND = {torch.float32: 2e-5, torch.float16: 0.03, torch.bfloat16: 0.15}


@pytest.fixture(scope="module")
def kernels() -> Iterator[SimpleNamespace]:
    with interpreted(("small",)) as modules:
        yield modules


@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize(
    ("n", "m"),
    [
        (8, 8),
        (17, 33),
        (100, 64),
        pytest.param(8, 1100, marks=pytest.mark.slow),
        pytest.param(70, 300, marks=pytest.mark.slow),
    ],
)
def test_against_float64(kernels: SimpleNamespace, n: int, m: int, dtype: torch.dtype) -> None:
    x = spectrum("gaussian", n, m).float()
    for steps in (EXPRESS, CUBIC) if n < 64 else (EXPRESS,):
        expected = reference(x, steps)
        assert error(kernels.small.small(x, steps, dtype=dtype), expected) < BOUND[dtype]
    tall = x.mT.contiguous()
    assert error(kernels.small.small(tall, EXPRESS, dtype=dtype), reference(tall)) < BOUND[dtype]


@pytest.mark.parametrize("kind", SPECTRA)
def test_spectra(kernels: SimpleNamespace, kind: str) -> None:
    for n, m in ((64, 64), (32, 600)):
        x = spectrum(kind, n, m).float()
        expected = share(reference(x))
        assert share(kernels.small.small(x, EXPRESS)) >= expected - 0.02
        assert share(kernels.small.small(x, EXPRESS, dtype=torch.float32)) >= expected - 1e-9


def test_a_power_of_two_changes_nothing(kernels: SimpleNamespace) -> None:
    for n, m in ((12, 20), (16, 1100)):
        x = spectrum("gaussian", n, m).float()
        x[1, 0] *= 1e-6
        expected = kernels.small.small(x, EXPRESS)
        for k in (-60, -7, 1, 60):
            assert torch.equal(kernels.small.small(x * 2.0**k, EXPRESS), expected), k


def test_zero_and_empty(kernels: SimpleNamespace) -> None:
    for shape in ((2, 5, 9), (2, 16, 1100), (0, 5, 9), (2, 0, 9), (2, 5, 0)):
        x = torch.zeros(shape)
        assert torch.equal(kernels.small.small(x, EXPRESS), x)


def test_strides_are_any(kernels: SimpleNamespace) -> None:
    whole = spectrum("gaussian", 48, 60, 4).float()
    for x in (whole[::2, ::3, ::2], whole[:, 10:20].mT, whole[:1].expand(3, -1, -1)):
        assert error(kernels.small.small(x, EXPRESS), reference(x)) < 0.03
    out = torch.zeros(4, 60, 48)
    kernels.small.small(whole, EXPRESS, out=out.mT)
    assert error(out.mT, reference(whole)) < 0.03
    long = spectrum("gaussian", 8, 1100).float()
    expected = kernels.small.small(long, EXPRESS)
    assert torch.equal(kernels.small.small(long, EXPRESS, out=long), expected)


def test_types_of_gradients(kernels: SimpleNamespace) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        x = spectrum("gaussian", 16, 24).to(dtype)
        found = kernels.small.small(x, EXPRESS)
        assert found.dtype == dtype
        assert error(found, reference(x)) < 0.03


@pytest.mark.parametrize("restart", [1, 3, 9])
def test_a_restart_anywhere(kernels: SimpleNamespace, restart: int) -> None:
    x = spectrum("gaussian", 8, 1100).float()
    found = kernels.small.small(x, EXPRESS, restart_after=restart, dtype=torch.float32)
    assert error(found, reference(x)) < 1e-4


@pytest.mark.parametrize(("n", "m"), [(11, 13), pytest.param(16, 1030, marks=pytest.mark.slow)])
def test_adversarial(kernels: SimpleNamespace, n: int, m: int) -> None:
    for x in adversarial(n, m, torch.float32, 4 if m < 100 else 1):
        found = kernels.small.small(x, EXPRESS)
        assert bool(found.isfinite().all())
        assert float(torch.linalg.matrix_norm(found, 2).max()) < 1.3


@cuda
@pytest.mark.parametrize("dtype", list(BOUND))
@pytest.mark.parametrize(
    ("n", "m"), [(64, 64), (128, 128), (17, 33), (1, 7), (64, 256), (8, 4096), (100, 1000), (128, 513), (16, 1024)]
)
def test_on_a_gpu(n: int, m: int, dtype: torch.dtype) -> None:
    from normc.update.kernels.small import small

    exact = dtype == torch.float32 and n <= 32  # above in tf32
    bound = BOUND[torch.float16 if dtype == torch.float32 and not exact else dtype]
    bound *= 10 if n == 1 else 1  # the polynomials are steep at one
    for kind in SPECTRA:
        x = spectrum(kind, n, m, 8).float().cuda()
        expected = reference(x)
        found = small(x, EXPRESS, dtype=dtype)
        assert share(found) >= share(expected) - (1e-9 if exact else 0.02)
        if kind == "gaussian":
            assert error(found, expected) < bound
            assert torch.equal(small(x * 2.0**-40, EXPRESS, dtype=dtype), found)
            assert error(small(x.mT, EXPRESS, dtype=dtype).mT, expected) < bound
    assert not small(torch.zeros_like(x), EXPRESS, dtype=dtype).any()


@cuda
def test_adversarial_on_a_gpu() -> None:
    from normc.update.kernels.small import small

    for n, m in ((64, 64), (32, 2048)):
        for x in adversarial(n, m, torch.float32, 25):
            found = small(x.cuda(), EXPRESS)
            assert bool(found.isfinite().all())
            assert float(torch.linalg.matrix_norm(found.double(), 2).max()) < 1.3
