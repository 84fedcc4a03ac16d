"""The cost model: what it counts, and which form it takes."""

from __future__ import annotations

import pytest
import torch

from normc.update.kernels.cost import form, work

CPU = torch.device("cpu")


@pytest.mark.parametrize(("n", "m"), [(64, 64), (64, 256), (100, 730)])
def test_operations_are_those_of_the_formulas(n: int, m: int) -> None:
    """T n^3 (4a + 2), T n^3 (3a + 1) and n^3 (3k (a - 1) + 4T)."""
    a, steps = m / n, 5
    assert work(n, m, "standard", share=1.0) == pytest.approx(steps * n**3 * (4 * a + 2))
    assert work(n, m, "standard") == pytest.approx(steps * n**3 * (3 * a + 1))
    for segments in (1, 2):
        assert work(n, m, "gram", segments=segments) == pytest.approx(n**3 * (3 * segments * (a - 1) + 4 * steps))
    assert work(n, n, "gram", share=1.0) == pytest.approx(36 * n**3)


def test_the_form_is_that_of_least_work() -> None:
    assert form(300, 300, torch.float32, CPU) == "standard"
    assert form(300, 1200, torch.float32, CPU) == "gram"
    assert form(1024, 1024, torch.float32, CPU) == "standard"
    assert form(1024, 4096, torch.float32, CPU) == "gram"
    assert form(1024, 4096, torch.bfloat16, CPU) == "standard"
    assert form(64, 64, torch.float64, CPU) == "standard"


def test_small_where_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert form(128, 4096, torch.float16, CPU) == "small"
    assert form(129, 4096, torch.float16, CPU) == "gram"
    assert form(128, 128, torch.float64, CPU) == "standard"
    assert form(32, 128, torch.float32, CPU) == "small"
    assert form(64, 64, torch.float32, CPU) == "standard"


def test_empty_matrices_have_no_work() -> None:
    assert work(0, 5, "gram") == work(0, 5, "standard") == 0.0
