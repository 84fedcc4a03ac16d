"""Curvature rules, for activations of size 1, in the norms of the gain rules: RMS over features, largest over places.

Elementwise ops count by the largest second derivative, for changes whose entries are alike: one that sits in a single
entry bends by up to the root of the width more, as in Modula's own account.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from normc.model.gains.activations import as_function
from normc.model.gains.curvature import Bend, curvature
from normc.model.gains.local import At, Local, floats

_WIDEST = 12.0
_STEP = 1e-3
NORM = 2 / math.sqrt(3)  # of x / rms(x) at rms 1: the largest s^2 (4 - 3 s^2), at s^2 = 2/3, is 4/3
_SLOPE, _BEND = 0.25, 1 / (6 * math.sqrt(3))  # of the sigmoid


@curvature(
    "aten._to_copy", "aten._unsafe_view", "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.alias",
    "aten.adaptive_avg_pool3d", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", "aten.channel_shuffle",
    "aten.clone", "aten.constant_pad_nd", "aten.contiguous", "aten.diagonal", "aten.dropout", "aten.expand",
    "aten.expand_as", "aten.feature_dropout", "aten.flatten", "aten.flip", "aten.gather", "aten.im2col", "aten.index",
    "aten.index_select", "aten.lift_fresh", "aten.mT", "aten.masked_select", "aten.moveaxis", "aten.movedim",
    "aten.native_dropout", "aten.numpy_T", "aten.pad", "aten.permute", "aten.pixel_shuffle", "aten.pixel_unshuffle",
    "aten.ravel", "aten.reflection_pad1d", "aten.reflection_pad2d", "aten.repeat", "aten.repeat_interleave",
    "aten.replication_pad1d", "aten.replication_pad2d", "aten.reshape", "aten.roll", "aten.squeeze", "aten.swapaxes",
    "aten.t", "aten.T", "aten.take_along_dim", "aten.tile", "aten.to", "aten.transpose", "aten.type_as", "aten.tril",
    "aten.triu", "aten.unflatten", "aten.unfold", "aten.unsqueeze", "aten.upsample_bilinear2d",
    "aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.view", "aten.view_as", "aten._reshape_alias",
    "aten.upsample_bicubic2d", "aten._upsample_bicubic2d_aa", "aten.float", "aten.half", "aten.bfloat16", "aten.double",
    "aten.index_put", "aten.col2im", "aten.rot90", "aten.narrow", "aten.take", "aten.neg", "aten.embedding",
    "operator.getitem", "aten.slice", "aten.select", "aten.chunk", "aten.split", "aten.split_with_sizes", "aten.unbind",
    "aten.tensor_split", "aten.unsafe_chunk", "aten.unsafe_split", "aten.cat", "aten.stack", "aten.concat",
    "aten.hstack", "aten.vstack", "aten.column_stack", "aten.mean", "aten.sum", "aten.add", "aten.sub", "aten.rsub",
    "aten.subtract", "aten.__iadd__", "aten.where", "aten.masked_fill", "aten.copy", "aten.masked_scatter",
    "aten.slice_scatter", "aten.select_scatter", "aten.scatter", "effects.after_write", "aten.index_copy",
    "aten.index_fill", "aten.index_add", "aten.scatter_add", "aten.log_softmax", "aten._log_softmax", "aten.nll_loss",
    "aten.nll_loss2d", "aten.cross_entropy_loss", "aten.nll_loss_nd", "aten.nll_loss_forward", "aten.mse_loss",
    "aten.l1_loss", "aten.smooth_l1_loss", "aten.binary_cross_entropy_with_logits", "aten.kl_div",
)  # fmt: skip
def straight(at: At, local: Local) -> Iterable[Bend]:
    """Linear in everything that moves; a loss counts as the output that it is made of, as in its gain."""
    return ()


@curvature(
    "aten.mul", "aten.multiply", "aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.inner",
    "aten.linear", "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.conv_transpose1d", "aten.conv_transpose2d",
    "aten.conv_transpose3d", "aten.convolution", "aten._convolution", "aten._grouped_mm", "aten.grouped_mm",
    "aten.einsum", "aten.addmm", "aten.baddbmm", "aten.addbmm", "aten.addmv", "aten.addcmul",
)  # fmt: skip
def bilinear(at: At, local: Local) -> Iterable[Bend]:
    """Of two activations, the gain of one over the size of the other; with a weight or a constant, linear."""
    factors = _factors(at)
    if len(factors) != 2:
        return ()
    first, second = factors
    bound = next(use.gain for use in local.back if use.operand is first) / at.size(second).rms
    return _each_way(first, second, bound)


def _factors(at: At) -> list[fx.Node]:
    """The activations that are multiplied with each other: not what is added to their product."""
    arguments: Any = at.node.args[1] if at.name == "einsum" else at.node.args[:3]
    if at.name in ("addmm", "baddbmm", "addbmm", "addmv", "addcmul"):
        arguments = arguments[1:]
    elif at.name != "einsum":
        arguments = arguments[:2]
    return [node for node in arguments if isinstance(node, fx.Node) and at.kind(node) == "data" and floats(node)]


def _each_way(first: fx.Node, second: fx.Node, bound: float) -> tuple[Bend, Bend]:
    return Bend(first, second, bound), Bend(second, first, bound)


@curvature("aten.div", "aten.true_divide", "aten.divide")
def divided(at: At, local: Local) -> Iterable[Bend]:
    """x / y at size 1: y'' is 2 x / y^3, and the mixed one 1 / y^2; by a number, linear."""
    first, second = at.node.args[:2]
    if not isinstance(second, fx.Node) or at.kind(second) != "data":
        return ()
    own = (Bend(second, second, 2.0),)
    return (*_each_way(first, second, 1.0), *own) if isinstance(first, fx.Node) and at.kind(first) == "data" else own


@curvature("aten.lerp")
def blended(at: At, local: Local) -> Iterable[Bend]:
    """Linear for a weight that doesn't move. LookupError for one that does."""
    if at.kind(at.node.args[2]) not in ("", "constant"):
        raise LookupError("its weight moves")
    return ()


@curvature(
    "aten.layer_norm", "aten.rms_norm", "aten.group_norm", "aten.batch_norm", "aten.instance_norm",
    "aten.native_layer_norm", "aten.native_group_norm", "aten._fused_rms_norm",
)  # fmt: skip
def normalised(at: At, local: Local) -> Iterable[Bend]:
    """x / rms(x) at size 1; linear where the statistics are constants."""
    operand = at.data[0]
    fixed = at.name == "batch_norm" and not at.node.args[5]
    return () if fixed else (Bend(operand, operand, NORM),)


@curvature("aten.softmax", "aten._softmax", "aten._safe_softmax")
def softmax(at: At, local: Local) -> Iterable[Bend]:
    """From the largest logit to the sum of the probabilities: a third central moment in [-1, 1], at most 1."""
    operand = at.data[0]
    return (Bend(operand, operand, 1.0),)


@curvature("aten.scaled_dot_product_attention")
def attention(at: At, local: Local) -> Iterable[Bend]:
    """Logits bend by the product of query and key, the softmax by the two logits that change, the average by both."""
    query, key, value = at.node.args[:3]
    moving = {use.operand for use in local.back}
    steer = {use.operand: use.gain for use in local.back if use.weak}
    found = [Bend(one, other, mine * theirs) for one, mine in steer.items() for other, theirs in steer.items()]
    if value in moving:
        assert isinstance(value, fx.Node)
        found += [bend for one, gain in steer.items() for bend in _each_way(one, value, gain)]
    if query in steer and key in steer:
        assert isinstance(query, fx.Node) and isinstance(key, fx.Node)
        found += _each_way(query, key, steer[query])
    return found


@curvature("aten.glu")
def gated(at: At, local: Local) -> Iterable[Bend]:
    """a sigmoid(b), of a and b in one operand: both mixed terms and the gate's own."""
    operand = at.data[0]
    return (Bend(operand, operand, 2 * _SLOPE + _BEND),)


@curvature(
    "aten.gelu", "aten.silu", "aten.mish", "aten.tanh", "aten.sigmoid", "aten.softplus", "aten.elu", "aten.selu",
    "aten.celu", "aten.log_sigmoid", "aten.sin", "aten.cos", "aten.erf", "aten.atan", "aten.tanhshrink",
)  # fmt: skip
def pointwise(at: At, local: Local) -> Iterable[Bend]:
    """The largest second derivative. LookupError for a function with a kink, which has none."""
    (operand,) = set(at.data)
    settings = [repr(argument) for argument in at.node.args if not isinstance(argument, fx.Node)]
    settings += [f"{key}={value!r}" for key, value in sorted(at.node.kwargs.items())]
    return (Bend(operand, operand, _largest(_Named(as_function(at.node, operand), str(at.node.target), *settings))),)


class _Named:
    """A function that is known by what it is called."""

    def __init__(self, function: Callable[[Tensor], Tensor], *key: str) -> None:
        self.function, self.key = function, key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and self.key == other.key


@functools.lru_cache(maxsize=256)
def _largest(named: _Named) -> float:
    return bend_of(named.function)


def bend_of(function: Callable[[Tensor], Tensor]) -> float:
    """The largest |f''| on [-12, 12]. LookupError where f' jumps or isn't finite."""
    x = torch.arange(-_WIDEST, _WIDEST + _STEP / 2, _STEP, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x) if slope.requires_grad else (torch.zeros_like(x),)
    steepest = float(bend.abs().max())
    jump = float(slope.detach().diff().abs().max())
    if not math.isfinite(steepest) or not jump <= 2 * (steepest + _STEP) * _STEP:
        raise LookupError("it has a kink, and so no second derivative there")
    return steepest
