"""Elementwise functions of one activation: mean squares of result and slope, by quadrature over a Gaussian."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import NoneType
from typing import Any

import torch
from torch import Tensor, fx

from normc.model.gains.local import At, Back, Local, Size, TailsError, gain, number, scaled, sign_of

# The gains of the paper's package (2405.14813, bond.py) where they are not the largest slope.
MODULA = {"relu": 2**-0.5, "gelu": 2**-0.5}
# Functions with f(c x) = c f(x) for positive c: one quadrature says all.
HOMOGENEOUS = frozenset({"relu", "leaky_relu", "abs", "neg"})
_OPERAND = object()
_WIDEST = 12.0
_RARE = 1 / 300
_COARSE = 16


@functools.cache
def _points() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Places and weights for a standard Gaussian: a fine grid without zero, where many functions have a kink.

    In two parts, each too short for torch to start threads, which costs more than the work.
    """
    places = torch.linspace(-_WIDEST, _WIDEST, 48_000, dtype=torch.float64)
    weights = torch.exp(-places.square() / 2)
    return places.chunk(2), (weights / weights.sum()).chunk(2)


@functools.cache
def _coarse() -> Tensor:
    """Weights of every sixteenth place."""
    weights = torch.cat([part[::_COARSE] for part in _points()[1]])
    return weights / weights.sum()


def average(function: Callable[[Tensor], Tensor], size: Size) -> tuple[Size, float]:
    """Size of function(x) and RMS of its slope, for x Gaussian of that size (folded, if it has one sign)."""
    return _averaged(_at_points(function, size))


def _averaged(parts: list[tuple[Tensor, Tensor]]) -> tuple[Size, float]:
    mean = square = steep = 0.0
    for weights, (y, slope) in zip(_points()[1], parts, strict=True):
        weighted = weights * y
        mean += float(weighted.sum())
        square += float((weighted * y).sum())  # not torch.dot, which starts threads
        steep += float((weights * slope.square()).sum())
    ends = torch.stack([end for y, _ in parts for end in torch.aminmax(y)])
    return Size(math.sqrt(square), mean, sign_of(ends)), math.sqrt(steep)


def _at_points(function: Callable[[Tensor], Tensor], size: Size) -> list[tuple[Tensor, Tensor]]:
    """The function and its slope at the places of the quadrature, in its parts."""
    parts = []
    for places in _points()[0]:
        with torch.enable_grad():
            x = size.mean + size.deviation * places
            x = (size.sign * x.abs() if size.sign and not steady(size) else x).requires_grad_()
            y = function(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
        parts.append((y.detach(), slope))
    return parts


def _rare(parts: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether half of a mean square would be made by fewer than one entry in 300: a Gaussian's tails, or a pole."""
    return any(
        _concentrated(_coarse(), torch.cat([part[::_COARSE] for part in found]).square())
        for found in zip(*parts, strict=True)
    )


def _concentrated(weights: Tensor, squares: Tensor) -> bool:
    weighted = weights * squares
    if math.sqrt(_RARE * float((weighted * squares).sum())) < float(weighted.sum()) / 2:
        return False  # by Cauchy and Schwarz, so few make less than half: nothing to sort
    order = squares.argsort(descending=True)
    shares = weighted[order].cumsum(0)
    half = int((shares < shares[-1] / 2).sum())
    return bool(shares[-1] > 0) and float(weights[order][: half + 1].sum()) < _RARE


def steady(size: Size) -> bool:
    """Whether the entries lie around their mean, and hardly any near zero."""
    return abs(size.mean) > 2 * size.deviation


def sharpest(function: Callable[[Tensor], Tensor]) -> float:
    """The largest slope on [-12, 12]."""
    x = torch.linspace(-_WIDEST, _WIDEST, 480_001, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(function(x).sum(), x)
    return float(slope.abs().max())


def pointwise(at: At) -> Local:
    """A function of one activation and of numbers. LookupError if it is no such thing, or isn't finite."""
    operands = set(at.data)
    if len(operands) != 1 or not isinstance(at.node.target, torch._ops.OpOverload):
        raise LookupError(at.name)
    (operand,) = operands
    function = as_function(at.node, operand)
    if at.model.nominal:
        known = MODULA.get(at.name) if at.model.convention == "modula" else None
        slope, size = known if known is not None else sharpest(function), Size(1.0)
    else:
        given = at.size(operand)
        size, slope, rare = _known(at, operand, given) or _tried(function, given)
        if rare or not math.isfinite(slope):
            if not steady(given):
                raise TailsError(at.name)
            size, slope = average(function, number(given.mean))  # it hardly varies
    if not (math.isfinite(slope) and math.isfinite(size.rms)):
        raise LookupError(at.name)
    return Local(size, (Back(operand, slope),))


def _tried(function: Callable[[Tensor], Tensor], size: Size) -> tuple[Size, float, bool]:
    """As `average`, and whether it is of no worth."""
    found = _at_points(function, size)
    return *_averaged(found), _rare(found)


def _known(at: At, operand: fx.Node, given: Size) -> tuple[Size, float, bool] | None:
    """The same for an op of nothing but the operand and numbers, remembered; None for others."""
    args = tuple(_OPERAND if arg is operand else arg for arg in at.node.args)
    kwargs = tuple(sorted(at.node.kwargs.items()))
    numbers = (*args, *(value for _, value in kwargs))
    if not all(isinstance(value, (int, float, str, NoneType)) or value is _OPERAND for value in numbers):
        return None
    if at.name not in HOMOGENEOUS or not 0 < given.rms < math.inf:
        return _remembered(at.node.target, args, kwargs, given)
    unit = Size(1.0, given.mean / given.rms, given.sign)
    size, slope, rare = _remembered(at.node.target, args, kwargs, unit)
    return scaled(size, given.rms), slope, rare


@functools.lru_cache(maxsize=1024)
def _remembered(target: Any, args: Any, kwargs: Any, size: Size) -> tuple[Size, float, bool]:
    def function(x: Tensor) -> Tensor:
        found: Tensor = target(*(x.clone() if arg is _OPERAND else arg for arg in args), **dict(kwargs))
        return found

    return _tried(function, size)


def as_function(node: fx.Node, operand: fx.Node) -> Callable[[Tensor], Tensor]:
    """The op as a function of that operand; other tensors must be known numbers."""

    def fixed(other: fx.Node) -> Any:
        value = other.meta.get("concrete")
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            return value.double().reshape(())
        if isinstance(value, (int, float)):
            return value
        raise LookupError(other.name)

    def run(x: Tensor) -> Tensor:
        def put(argument: fx.Node) -> Any:
            return x.clone() if argument is operand else fixed(argument)

        args = fx.node.map_arg(node.args, put)
        kwargs = fx.node.map_arg(node.kwargs, put)
        assert callable(node.target)
        out: Tensor = node.target(*args, **kwargs)
        return out

    return run


# What makes a decay or a rate of a weight: its size is that of the function of a Gaussian.
BENDING = frozenset({"exp", "neg", "sigmoid", "softplus", "tanh", "log_sigmoid", "square", "sqrt", "log", "expm1"})

gain(
    "aten.relu", "aten.gelu", "aten.silu", "aten.mish", "aten.tanh", "aten.sigmoid", "aten.softplus", "aten.elu",
    "aten.selu", "aten.celu", "aten.leaky_relu", "aten.hardswish", "aten.hardsigmoid", "aten.hardtanh", "aten.relu6",
    "aten.log_sigmoid", "aten.softsign", "aten.abs", "aten.neg", "aten.exp", "aten.log", "aten.log1p", "aten.sqrt",
    "aten.rsqrt", "aten.square", "aten.reciprocal", "aten.sin", "aten.cos", "aten.erf", "aten.clamp", "aten.clamp_min",
    "aten.clamp_max", "aten.atan", "aten.pow", "aten.threshold", "aten.softshrink", "aten.hardshrink", "aten.expm1",
    "aten.tanhshrink", "aten.logit", "aten.nan_to_num", "aten.rrelu", "aten.sinc", "aten.log2", "aten.exp2",
)(pointwise)  # fmt: skip
