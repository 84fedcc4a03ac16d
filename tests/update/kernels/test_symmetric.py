"""Symmetric products in Triton's interpreter, and on a GPU where there is one, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from normc.update.kernels.tiles import TILES, Tile, tile
from tests.update.kernels.interpreting import interpreted

pytest.importorskip("triton")
ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SMALL = (Tile(16, 1, 16, 2, 4, 2), Tile(16, 2, 16, 3, 4, 2), Tile(32, 1, 32, 8, 4, 2), Tile(16, 4, 16, 2, 4, 2))
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def kernels() -> Iterator[SimpleNamespace]:
    with interpreted(("symmetric",)) as modules:
        yield modules


def held(found: Tensor, a: Tensor, b: Tensor, **kept: Any) -> float:
    """The largest error, relative to the largest entry of the sum of absolute values."""
    alpha, beta, gamma = (kept.get(name, default) for name, default in (("alpha", 1.0), ("beta", 1.0), ("gamma", 0.0)))
    left = a.double().cpu() * alpha
    expected = left @ b.double().cpu().mT
    bound = left.abs() @ b.double().cpu().mT.abs()
    if "add" in kept:
        expected = expected + beta * kept["add"].double().cpu()
    expected = expected + gamma * torch.eye(a.shape[1], dtype=torch.float64)
    if found.numel() == 0:
        return 0.0
    return float((found.double().cpu() - expected).abs().max() / (bound.max() + expected.abs().max()))


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize(("n", "k"), [(17, 33), pytest.param(40, 16, marks=pytest.mark.slow), (1, 1)])
def test_products_are_right(kernels: SimpleNamespace, n: int, k: int, dtype: torch.dtype) -> None:
    torch.manual_seed(n)
    a, d = torch.randn(2, n, k).to(dtype), torch.randn(2, n, n)
    d = (d + d.mT).to(dtype)
    for constants in SMALL[: 4 if dtype == torch.float32 else 1]:
        kept: dict[str, Any] = {"add": d, "alpha": 0.5, "beta": 2.0, "gamma": 3.0}
        c = kernels.symmetric.symmetric(a, a, **kept, constants=constants)
        assert held(c, a, a, **kept) < ROUNDING[dtype]
        assert held(kernels.symmetric.symmetric(a, a, constants=constants), a, a) < ROUNDING[dtype]


def test_strides_are_any(kernels: SimpleNamespace) -> None:
    symmetric = kernels.symmetric.symmetric
    torch.manual_seed(0)
    tall = torch.randn(2, 50, 20)
    spread = torch.randn(4, 40, 100)[::2, ::2, 1::2]
    one = torch.randn(1, 20, 30).expand(3, 20, 30)
    for x in (tall.mT, spread, one):
        for constants in SMALL[:2]:
            assert held(symmetric(x, x, constants=constants), x, x) < 2e-6
    out = torch.full((2, 30, 40), 7.0)
    symmetric(tall.mT, tall.mT, out=out[:, 5:25, ::2], constants=SMALL[0])
    assert held(out[:, 5:25, ::2], tall.mT, tall.mT) < 2e-6
    assert int((out == 7.0).sum()) == out.numel() - 2 * 20 * 20
    turned = torch.empty(2, 20, 20).mT
    assert held(symmetric(tall.mT, tall.mT, out=turned), tall.mT, tall.mT) < 2e-6


def test_operands_that_commute(kernels: SimpleNamespace) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 40, 60)
    gram = x @ x.mT / 60
    square = gram @ gram
    found = kernels.symmetric.symmetric(gram, square.mT, constants=SMALL[1])
    assert held(found, gram, square) < 2e-6
    assert held(kernels.symmetric.symmetric(gram, gram.mT, constants=SMALL[0]), gram, gram) < 2e-6


def test_a_result_may_be_what_is_added(kernels: SimpleNamespace) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 35, 20)
    d = x @ x.mT
    kept = d.clone()
    kernels.symmetric.symmetric(x, x, add=d, out=d, alpha=-1.0, constants=SMALL[0])
    assert held(d, x, x, add=kept, alpha=-1.0) < 2e-6
    assert float(d.abs().max()) < 1e-4


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (2, 3, 0)])
def test_empty(kernels: SimpleNamespace, shape: tuple[int, int, int]) -> None:
    found = kernels.symmetric.symmetric(torch.ones(shape), torch.ones(shape), gamma=2.0)
    assert torch.equal(found, 2.0 * torch.eye(shape[1]).expand(shape[0], -1, -1))


@pytest.mark.parametrize("n", [1, 16, 17, pytest.param(90, marks=pytest.mark.slow)])
def test_every_entry_is_written_once_or_mirrored(kernels: SimpleNamespace, n: int) -> None:
    """Ones times ones, over many numbers of tiles and heights of groups."""
    for group, ratio in ((1, 1), (4, 1), (2, 2)):
        out = torch.full((1, n, n), float("nan"))
        x = torch.ones(1, n, 1)
        kernels.symmetric.symmetric(x, x, out=out, constants=Tile(16, ratio, 16, group, 4, 2))
        assert bool((out == 1).all()), (group, ratio)


def test_the_nearest_tile_is_taken() -> None:
    cpu = torch.device("cpu")
    for (n, k), constants in TILES.items():
        assert tile(n, k, torch.float16, cpu) == constants
        assert constants.block & (constants.block - 1) == 0
    assert tile(1000, 1100, torch.float16, cpu) == TILES[1024, 1024]
    assert tile(1, 0, torch.bfloat16, cpu) == TILES[64, 64]
    assert tile(1024, 1024, torch.float32, cpu).block < TILES[1024, 1024].block


@cuda
@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize(("n", "k"), [(1600, 1600), (1000, 3000), (769, 500), (17, 4096), (1, 1), (2048, 2048)])
def test_on_a_gpu(n: int, k: int, dtype: torch.dtype) -> None:
    from normc.update.kernels.symmetric import symmetric

    torch.manual_seed(n)
    a, d = torch.randn(2, n, k), torch.randn(2, n, n)
    a, d = a.cuda().to(dtype), (d + d.mT).cuda().to(dtype)
    kept: dict[str, Any] = {"add": d, "alpha": 0.5, "beta": 2.0, "gamma": 3.0}
    assert held(symmetric(a, a, **kept), a, a, **kept) < ROUNDING[dtype]
    turned = a.mT.contiguous().mT
    assert held(symmetric(turned, turned), a, a) < ROUNDING[dtype]
    for constants in dict.fromkeys(TILES.values()) if dtype != torch.float32 else ():
        assert held(symmetric(a, a, constants=constants), a, a) < ROUNDING[dtype], constants
