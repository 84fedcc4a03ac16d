"""The form that is chosen does what float64 does, in the dtype that it is worked on in."""

from __future__ import annotations

import pytest
import torch

from normc.update.kernels import cost
from normc.update.kernels.newton_schulz import newton_schulz
from normc.update.kernels.normalise import scaled
from normc.update.ops.matrices import polar
from normc.update.polynomials.by_name import polynomials
from tests.update.kernels.spectra import adversarial

EXPRESS = polynomials("polar-express", 5)


@pytest.mark.parametrize("shape", [(2, 8, 24), (2, 24, 8), (1, 5, 5), (0, 3, 4), (3, 1, 7)])
@pytest.mark.parametrize("forced", ["standard", "gram", None])
def test_every_form_agrees_with_the_plain_one(
    shape: tuple[int, ...], forced: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced is not None:
        monkeypatch.setitem(newton_schulz.__globals__, "form", lambda *args, **more: forced)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = newton_schulz(x, EXPRESS)
    assert found.dtype == x.dtype and found.shape == x.shape
    torch.testing.assert_close(found, polar(x.double(), EXPRESS).float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("n", "m"), [(8, 24), (64, 256)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_stacks_beside_each_other_are_each_as_alone(n: int, m: int, dtype: torch.dtype | None) -> None:
    draw = torch.Generator().manual_seed(0)
    xs = [torch.randn(2, n, m, generator=draw), torch.randn(3, m, n, generator=draw), torch.zeros(0, n, m)]
    for x, found in zip(xs, newton_schulz(xs, EXPRESS, dtype), strict=True):
        assert found.shape == x.shape and found.stride() == x.stride() and found.dtype == x.dtype
        atol = 2e-5 if dtype is None else 0.05
        torch.testing.assert_close(found, polar(x.double(), EXPRESS).float(), atol=atol, rtol=0)


@pytest.mark.parametrize("power", [-140, -100, -31, 0, 59, 100])
@pytest.mark.parametrize("turned", [False, True])
def test_matrices_are_scaled_to_one_whatever_their_size(power: int, turned: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    plain = torch.randint(1, 128, (3, 6, 40), generator=draw).float()
    plain[1] = 0.0
    plain = plain.mT.contiguous().mT if turned else plain
    x = torch.ldexp(torch.ldexp(plain, torch.tensor(power // 2)), torch.tensor(power - power // 2))
    found = scaled(x, 1.0)
    norms = found.double().square().sum((1, 2)).sqrt()
    torch.testing.assert_close(norms, torch.tensor([1.0, 0.0, 1.0]).double(), atol=1e-6, rtol=0)
    assert torch.equal(found, scaled(plain, 1.0))


def test_sixteen_bits_come_out_as_they_were_worked_on() -> None:
    x = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = newton_schulz(x, EXPRESS, torch.float16)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), polar(x.double(), EXPRESS), atol=2e-2, rtol=0)
    wide = newton_schulz(x.float(), EXPRESS, torch.float16)
    assert wide.dtype == torch.float32 and torch.equal(wide, wide.half().float())


def test_what_kernels_keep_wide_on_chip_is_rounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(x: torch.Tensor, polynomials: object, *, dtype: torch.dtype, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(x / 3.0)  # rounds as a store does: to the dtype of `out`

    monkeypatch.setitem(newton_schulz.__globals__, "form", lambda *args, **more: "small")
    monkeypatch.setitem(newton_schulz.__globals__, "small", kernel)
    x = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(0))
    found = newton_schulz(x, EXPRESS, torch.float16)
    assert found.dtype == torch.float32 and torch.equal(found, found.half().float())
    assert newton_schulz(x.half(), EXPRESS, torch.float16, unit=True).dtype == torch.float16


def test_squares_are_cheapest_as_they_are_and_long_matrices_by_their_gram() -> None:
    device = torch.device("cpu")
    assert cost.form(64, 64, torch.float32, device) == "standard"
    assert cost.form(64, 512, torch.float32, device) == "gram"
    assert cost.form(64, 512, torch.bfloat16, device) == "standard"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("n", "m"), [(16, 40), (100, 700), (160, 160), (200, 600)])
def test_ten_thousand_matrices_on_a_gpu(n: int, m: int) -> None:
    cases = adversarial(n, m, torch.float32, 500)
    for x in map(torch.cat, zip(*[cases] * 20, strict=True)):
        found = newton_schulz(x.cuda(), EXPRESS, torch.float16)
        assert bool(found.isfinite().all())
        assert float(torch.linalg.matrix_norm(found.float(), 2).max()) < 1.3
