"""Gains of activations for a Gaussian of RMS 1, against a table computed by hand with independent quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from normc.model.gains.activations import average, sharpest
from normc.model.gains.local import Size

# Largest slope, RMS of the slope, RMS of the result.
TABLE: dict[str, tuple[Callable[[Tensor], Tensor], float, float, float]] = {
    "relu": (F.relu, 1, 0.70711, 0.70711),
    "gelu": (F.gelu, 1.12890, 0.67517, 0.65209),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), 1.12899, 0.67514, 0.65207),
    "abs": (torch.abs, 1, 1, 1),
    "silu": (F.silu, 1.09984, 0.61602, 0.59647),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), 1.09984, 0.67048, 0.64958),
    "mish": (F.mish, 1.08850, 0.69216, 0.67256),
    "tanh": (torch.tanh, 1, 0.68147, 0.62793),
    "sigmoid": (torch.sigmoid, 0.25, 0.21175, 0.54164),
    "softplus": (F.softplus, 1, 0.54164, 0.95982),
    "elu": (F.elu, 1, 0.81738, 0.80308),
    "selu": (F.selu, 1.75810, 1.03517, 1.0),
    "hardswish": (F.hardswish, 1.5, 0.59878, 0.57582),
    "squared relu": (lambda x: F.relu(x).square(), math.inf, 1.41421, 1.22474),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str) -> None:
    function, sharp, slope, forward = TABLE[name]
    size, found = average(function, Size(1.0))
    assert found == pytest.approx(slope, abs=2e-5)
    assert size.rms == pytest.approx(forward, abs=2e-5)
    if math.isfinite(sharp):
        assert sharpest(function) == pytest.approx(sharp, abs=2e-5)


@pytest.mark.parametrize("rms", [0.1, 0.5, 2.0, 7.0])
def test_a_homogeneous_function_scales_and_keeps_its_slope(rms: float) -> None:
    size, slope = average(F.relu, Size(rms))
    assert size.rms == pytest.approx(rms * 0.5**0.5, rel=1e-4)
    assert size.mean == pytest.approx(rms / math.sqrt(2 * math.pi), rel=1e-4)
    assert slope == pytest.approx(0.5**0.5, rel=1e-4)
    assert size.sign == 1


def test_what_hardly_varies_is_its_mean() -> None:
    size, slope = average(torch.rsqrt, Size(math.hypot(4.0, 1e-3), 4.0))
    assert size.rms == pytest.approx(0.5, rel=1e-4)
    assert slope == pytest.approx(0.5 * 4**-1.5, rel=1e-4)


def test_a_decay_of_one_sign_stays_below_one() -> None:
    size, _ = average(torch.exp, Size(3.0, -2.0, sign=-1))
    assert 0 < size.rms < 1
