"""Newton-Schulz by cheaper algebra against float64: on CPU, in Triton's interpreter, and on a GPU if there is one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from normc.update.kernels import polar as module
from normc.update.kernels.chunks import chunks
from normc.update.kernels.normalise import starting_norm
from normc.update.kernels.polar import polar_gram, polar_many, polar_standard
from normc.update.kernels.products import product, sandwich
from tests.update.kernels.interpreting import interpreted
from tests.update.kernels.spectra import CUBIC, EXPRESS, SPECTRA, adversarial, error, reference, share, spectrum

FORMS = {"standard": polar_standard, "gram": polar_gram}
SHAPES = [(1, 1), (17, 17), (24, 100), (100, 24), (1, 9)]
NARROW = (torch.float16, torch.bfloat16)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(form: str, shape: tuple[int, int]) -> None:
    for dtype, bound in ((torch.float64, 1e-11), (torch.float32, 2e-4)):
        x = spectrum("gaussian", *shape, batch=3).to(dtype)
        for steps in (EXPRESS, CUBIC, EXPRESS[:1], EXPRESS[:2], (), EXPRESS + CUBIC[:3]):
            assert error(FORMS[form](x, steps), reference(x, steps)) < bound


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize(("n", "m"), [(48, 48), (40, 130)])
def test_narrow_forms_are_as_good_as_the_standard_in_bf16(kind: str, n: int, m: int) -> None:
    x = spectrum(kind, n, m).float()
    expected = share(polar_standard(x, EXPRESS, dtype=torch.bfloat16))
    assert share(polar_gram(x, EXPRESS, dtype=torch.float16)) >= expected - 1e-9
    assert share(polar_standard(x, EXPRESS, dtype=torch.float16)) >= expected - 1e-9
    if kind != "deficient":  # rounding moves a repeated singular value anywhere within the range
        assert error(polar_gram(x, EXPRESS, dtype=torch.float16), reference(x)) < 0.03
        assert error(polar_standard(x, EXPRESS, dtype=torch.bfloat16), reference(x)) < 0.05


def test_the_restart_is_never_dropped_in_16_bits() -> None:
    x = spectrum("gaussian", 8, 8).float()
    for dtype in NARROW:
        for after in (None, 0, 5):
            with pytest.raises(ValueError, match="needs a restart"):
                polar_gram(x, EXPRESS, dtype=dtype, restart_after=after)
    assert error(polar_gram(x, EXPRESS, restart_after=None), reference(x)) < 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(3, 16, 40), (3, 40, 16), (2, 16, 16)])
@pytest.mark.parametrize("steps", [EXPRESS, EXPRESS[:2], EXPRESS[:1], CUBIC])
@pytest.mark.parametrize("large", [2**62, 0])
def test_what_is_of_unit_norm_may_be_written_over(
    form: str,
    shape: tuple[int, int, int],
    steps: tuple[tuple[float, float, float], ...],
    large: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LARGE", large)
    monkeypatch.setattr(module, "COLUMNS", 16)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    length = starting_norm(min(shape[1:]), torch.float16)
    given = (x * (length / x.flatten(1).norm(dim=1)[:, None, None])).half()
    expected = reference(given, steps)
    for workspace in (2**28, 1):
        found = FORMS[form](given.clone(), steps, unit=True, workspace=workspace)
        assert found.dtype == torch.float16 and error(found, expected) < 0.03
    own = given.clone()
    assert (FORMS[form](own, EXPRESS, unit=True).data_ptr() == own.data_ptr()) and own.shape == x.shape


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_power_of_two_changes_nothing(form: str, dtype: torch.dtype) -> None:
    x = spectrum("gaussian", 12, 30).float()
    expected = FORMS[form](x, EXPRESS, dtype=dtype)
    for k in (-60, -7, 1, 60):
        assert torch.equal(FORMS[form](x * 2.0**k, EXPRESS, dtype=dtype), expected), k


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
def test_zero_and_empty(form: str, dtype: torch.dtype) -> None:
    for shape in ((2, 5, 9), (2, 9, 5), (0, 5, 9), (2, 0, 9), (2, 5, 0)):
        x = torch.zeros(shape)
        assert torch.equal(FORMS[form](x, EXPRESS, dtype=dtype), x)


@pytest.mark.parametrize("form", FORMS)
def test_layout_and_dtype_of_the_result(form: str) -> None:
    whole = spectrum("gaussian", 30, 40, 4).float()
    for x in (whole.mT, whole[::2, ::3, ::2], whole[:1].expand(3, -1, -1), whole.bfloat16(), whole.mT.bfloat16().mT):
        found = FORMS[form](x, EXPRESS, dtype=torch.float32)
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        assert error(found, reference(x)) < (1e-3 if x.dtype == torch.float32 else 0.02)
        assert found.stride() == torch.empty_like(x).stride()
    assert FORMS[form](whole, EXPRESS, dtype=torch.float16, result=torch.float16).dtype == torch.float16


@pytest.mark.parametrize("workspace", [1, 40_000, 2**28])
def test_shapes_of_one_short_side_share_their_chain(workspace: int) -> None:
    shapes = [(3, 16, 16), (2, 64, 16), (0, 16, 5), (1, 16, 40), (2, 8, 16), (2, 16, 64)]
    xs = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    xs[5] = xs[5].mT.contiguous().mT
    for x, found in zip(xs, polar_many(xs, EXPRESS, workspace=workspace), strict=True):
        assert torch.allclose(found, polar_gram(x, EXPRESS), atol=1e-4)
        assert x.numel() == 0 or error(found, reference(x)) < 1e-3
    assert polar_many([], EXPRESS) == []


def test_chunks_fit_and_cover() -> None:
    assert list(chunks([2, 3], [10, 20], 40)) == [(0, 3), (3, 5)]
    assert list(chunks([3], [100], 1)) == [(0, 1), (1, 2), (2, 3)]
    assert list(chunks([0, 0], [5, 5], 10)) == []
    assert list(chunks([19], [10], 95)) == [(0, 7), (7, 13), (13, 19)]
    found = list(chunks([7, 5, 9], [3, 8, 2], 17))
    assert found[0][0] == 0
    assert found[-1][1] == 21
    assert all(one[1] == other[0] for one, other in pairwise(found))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_adversarial(form: str, dtype: torch.dtype) -> None:
    for n, m in ((11, 13), (16, 40)):
        for x in adversarial(n, m, torch.float32, 12):
            found = FORMS[form](x, EXPRESS, dtype=dtype)
            assert bool(found.isfinite().all())
            assert float(torch.linalg.matrix_norm(found.double(), 2).max()) < 1.3


@pytest.mark.parametrize("form", FORMS)
def test_ten_thousand_matrices(form: str) -> None:
    cases = adversarial(16, 40, torch.float32, 500)
    for x in map(torch.cat, zip(*[cases] * 20, strict=True)):
        found = FORMS[form](x, EXPRESS, dtype=torch.float16)
        assert bool(found.isfinite().all())
        assert float(torch.linalg.matrix_norm(found.float(), 2).max()) < 1.3


@pytest.mark.parametrize("n", [500, 530, 800])
def test_halved_products_on_cpu(n: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, n, 50)
    gram = product(x, x.mT, torch.empty(2, n, n), alpha=1 / 50)
    assert torch.allclose(gram, x @ x.mT / 50, atol=1e-5)
    assert torch.equal(gram, gram.mT)
    found = product(gram, gram, torch.empty_like(gram), add=gram, alpha=0.5, beta=-1.0, gamma=4.0)
    expected = 0.5 * gram @ gram - gram + 4.0 * torch.eye(n)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)
    factor = gram + 1.0 * torch.eye(n)
    expected = factor @ gram @ factor
    assert torch.allclose(sandwich(gram, factor, torch.empty_like(gram)), expected, rtol=1e-3, atol=1e-2)


@pytest.fixture
def through_kernels() -> Iterator[SimpleNamespace]:
    """The forms with every symmetric product in the kernel, interpreted."""
    pytest.importorskip("triton")
    with interpreted(("symmetric", "products", "polar")) as modules, pytest.MonkeyPatch.context() as patches:

        def always(a: Tensor, b: Tensor, out: Tensor, without: tuple[str, ...] = (), **kept: Any) -> Any:
            return modules.symmetric.symmetric(a, b.mT, out=out, **kept)

        for module in (modules.products, modules.polar):
            patches.setattr(module, "product", always)
        patches.setattr(modules.products, "symmetric_pays", lambda *_: True)
        yield modules


def test_forms_through_the_kernel(through_kernels: SimpleNamespace) -> None:
    polar = through_kernels.polar
    x = spectrum("gaussian", 20, 40, batch=1).float()
    expected = reference(x)
    assert error(polar.polar_gram(x, EXPRESS), expected) < 1e-3
    assert error(polar.polar_gram(x, EXPRESS, dtype=torch.float16), expected) < 0.05
    assert error(polar.polar_standard(x.mT, EXPRESS, dtype=torch.bfloat16).mT, expected) < 0.05
    assert error(polar.polar_gram(x, CUBIC[:3]), reference(x, CUBIC[:3])) < 1e-3
    assert not polar.polar_gram(torch.zeros(1, 9, 9), EXPRESS, dtype=torch.float16).any()


def test_null_spaces_stay_clean_through_the_kernel(through_kernels: SimpleNamespace) -> None:
    """Mirrored products of what only commutes would be off by 0.15."""
    x = spectrum("gaussian", 96, 128, batch=1)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    lacking = ((u[..., :48] * s[..., None, :48]) @ v[..., :48, :]).float()
    for matrices in (lacking, lacking.mT.contiguous()):
        found = through_kernels.polar.polar_gram(matrices, EXPRESS, dtype=torch.float16)
        assert error(found, reference(matrices)) < 0.04


@cuda
@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize(("n", "m"), [(768, 768), (768, 3072), (1000, 769), (1600, 1600), (300, 300), (17, 400)])
def test_on_a_gpu(n: int, m: int, kind: str) -> None:
    x = spectrum(kind, n, m).float().cuda()
    expected = reference(x)
    plain = polar_standard(x, EXPRESS, dtype=torch.bfloat16)
    for found in (
        polar_gram(x, EXPRESS, dtype=torch.float16),
        polar_standard(x, EXPRESS, dtype=torch.float16),
        polar_gram(x.mT, EXPRESS, dtype=torch.float16).mT,
        polar_many([x, x[:, :, : n // 2], x.mT.contiguous()], EXPRESS, dtype=torch.float16)[2].mT,
    ):
        assert bool(found.isfinite().all())
        assert share(found) >= min(share(plain), share(expected)) - 0.01
        if kind != "deficient":
            assert error(found, expected) < 0.06
    same = polar_gram(x * 2.0**-40, EXPRESS, dtype=torch.float16)
    assert torch.equal(same, polar_gram(x, EXPRESS, dtype=torch.float16))


@cuda
def test_adversarial_on_a_gpu() -> None:
    for n, m in ((520, 520), (513, 600), (200, 300)):
        for x in adversarial(n, m, torch.float32, 5):
            for form in FORMS.values():
                found = form(x.cuda(), EXPRESS, dtype=torch.float16)
                assert bool(found.isfinite().all())
                assert float(torch.linalg.matrix_norm(found.double(), 2).max()) < 1.3
