"""Second order, op by op: every constant against a search for something larger."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from normc.model.gains.bends import NORM, bend_of
from tests.model.gains.bending import bent, layer_norm, rms_norm, size
from tests.quick import others_slow


@pytest.mark.parametrize(
    ("function", "largest"),
    [(F.gelu, 0.7979), (torch.tanh, 0.7698), (F.silu, 0.5), (F.softplus, 0.25), (torch.sigmoid, 0.0962)],
)
def test_activations(function: Callable[[Tensor], Tensor], largest: float) -> None:
    assert bend_of(function) == pytest.approx(largest, abs=5e-5)


@pytest.mark.parametrize("function", [F.relu, torch.abs, F.hardswish, F.leaky_relu, lambda x: F.elu(x, 1.3)])
def test_a_kink_has_no_second_derivative(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(LookupError, match="kink"):
        bend_of(function)


def searched(second: Callable[[list[Tensor]], Tensor], start: list[Tensor], steps: int = 200) -> float:
    """The largest value found by ascent."""
    start = [x.requires_grad_() for x in start]
    opt, best = torch.optim.Adam(start, lr=0.05), 0.0
    for _ in range(steps):
        opt.zero_grad()
        value = second(start)
        best = max(best, float(value.detach()))
        (-value).backward()
        opt.step()
    return best


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Modula's functional attention."""
    return F.scaled_dot_product_attention(q, k, v, scale=1 / q.shape[-1])


# Bounds by operand, for q, k and v: what normc's rule says.
ATTENTION = {"qq": 1.0, "kk": 1.0, "qk": 2.0, "qv": 1.0, "kv": 1.0, "vv": 0.0}


@pytest.mark.parametrize("seed", others_slow(range(3), [0]))
@pytest.mark.parametrize("pair", ATTENTION)
def test_functional_attention_bends_no_more_than_its_rule_says(pair: str, seed: int) -> None:
    """So it is (0, 0, 2)-sharp, where the paper has (0, 0, 3)."""
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(5)]
    first, second = "qkv".index(pair[0]), "qkv".index(pair[1])

    def value(given: list[Tensor]) -> Tensor:
        *at, one, two = (x / size(x) for x in given)
        zero = torch.zeros_like(one)
        found = bent(
            attention, tuple(at), tuple(one if i == first else zero for i in range(3)),
            tuple(two if i == second else zero for i in range(3)),
        )  # fmt: skip
        return size(found)

    found = searched(value, start)
    assert found <= ATTENTION[pair] + 1e-9 <= 3
    if ATTENTION[pair]:
        assert found > 0.3 * ATTENTION[pair]


@pytest.mark.parametrize("seed", range(3))
def test_a_softmax_bends_by_at_most_one(seed: int) -> None:
    """In the sum of the probabilities, by the largest logits: reached by two independent halves."""

    def value(given: list[Tensor]) -> Tensor:
        logits, one, two = given
        return bent(lambda x: F.softmax(x, -1), (logits,), (one,), (two,)).abs().sum()

    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(3)]
    assert searched(lambda x: value([x[0], x[1].tanh(), x[2].tanh()]), start, 100) <= 1
    halves = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert float(value([torch.zeros(4), *halves])) == pytest.approx(1.0)


@pytest.mark.parametrize("norm", [rms_norm, layer_norm])
def test_a_norm_bends_by_its_constant(norm: Callable[[Tensor], Tensor]) -> None:
    def value(given: list[Tensor]) -> Tensor:
        at, one, two = given
        at = norm(at)
        return size(bent(norm, (at,), (one / size(one),), (two / size(two),)))

    generator = torch.Generator().manual_seed(0)
    found = searched(value, [torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(3)])
    assert found == pytest.approx(NORM, rel=1e-2) and found <= NORM + 1e-6
