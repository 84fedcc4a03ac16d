"""Entries of one vector that scale weights are scalars; matrices that are kept in a vector are admitted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc.plans.row import Row

WIDTH = 12


class Between(nn.Module):
    """A layer before and a layer behind what `core` does with `own`."""

    entries: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(7, WIDTH), nn.Linear(WIDTH, 5)
        self.matrix, self.own = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.randn(self.entries))

    def core(self, h: Tensor) -> Tensor:
        """[batch, width] to the same."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 7]."""
        out: Tensor = self.head(self.core(self.stem(x).relu()))
        return out


def rows(model: nn.Module) -> tuple[Row, Row]:
    """Of the matrix and of the parameter itself; the plan becomes a step."""
    plan = normc.plan(model, torch.randn(3, 7), recipe="uscion")
    normc.compile(model, lr=0.1, plan=plan, compile=False)
    return plan["matrix"], plan["own"]


class PairsOfSlice(Between):
    """A slice seen as pairs, of which one entry multiplies a weight and the other an activation."""

    entries = (13,)

    def core(self, h: Tensor) -> Tensor:
        for pair in self.own[4:12].view(-1, 2):
            h = h * pair[1] + F.linear(h, pair[0] * self.matrix)
        return h


class Pairs(Between):
    """The same of a parameter of that shape."""

    entries = (4, 2)

    def core(self, h: Tensor) -> Tensor:
        for i in range(4):
            h = h + F.linear(h, self.matrix * self.own[i, 0]) * self.own[i, 1]
        return h


class Halves(Between):
    """Halves of a vector, entry by entry."""

    entries = (8,)

    def core(self, h: Tensor) -> Tensor:
        one, other = self.own.chunk(2)
        for i in range(4):
            h = h + h @ (self.matrix * one[i]) * other[i]
        return h


class OfTwo(Between):
    """Two entries in one weight."""

    entries = (2, 3)

    def core(self, h: Tensor) -> Tensor:
        for a, b, _ in self.own:
            h = h + h @ (self.matrix * a + self.matrix.T * b)
        return h


class FromTheEnd(Between):
    """Entries before and behind."""

    entries = (6,)

    def core(self, h: Tensor) -> Tensor:
        return F.linear(h, self.own[-2] * self.matrix) + F.linear(h, self.matrix / self.own[0])


@pytest.mark.parametrize("model", [PairsOfSlice, Pairs, Halves, OfTwo, FromTheEnd])
def test_entries_that_scale_a_weight_are_scalars(model: type[Between]) -> None:
    matrix, own = rows(model())
    assert (matrix.role, matrix.norm) == ("hidden", "spectral")
    assert (own.role, own.norm, own.blocks, own.fallback) == ("scalar", "sign", (), None)


class SeveralInOne(Between):
    """Two matrices and two biases."""

    entries = (2 * WIDTH * 20 + 20 + WIDTH,)

    def core(self, h: Tensor) -> Tensor:
        start = 0
        taken = []
        for shape in ((20, WIDTH), (20,), (WIDTH, 20), (WIDTH,)):
            taken.append(self.own[start : start + math.prod(shape)].view(shape))
            start += math.prod(shape)
        return F.linear(F.linear(h, taken[0], taken[1]).relu(), taken[2], taken[3])


class TwoForms(Between):
    """All entries as one matrix, then as another."""

    entries = (WIDTH * 20,)

    def core(self, h: Tensor) -> Tensor:
        return F.linear(F.linear(h, self.own.view(20, WIDTH)).relu(), self.own.view(WIDTH, 20))


class OneMatrix(Between):
    entries = (WIDTH * WIDTH,)

    def core(self, h: Tensor) -> Tensor:
        return h @ self.own.unflatten(0, (WIDTH, WIDTH))


class Filter(Between):
    entries = (2 * WIDTH * WIDTH * 3,)

    def core(self, h: Tensor) -> Tensor:
        one, other = self.own.chunk(2)
        y = F.conv1d(h[..., None], one.view(WIDTH, WIDTH, 3), padding=1)
        return F.conv1d(y, other.view(WIDTH, WIDTH, 3), padding=1)[..., 0]


class LayersInRows(Between):
    entries = (3, WIDTH * WIDTH)

    def core(self, h: Tensor) -> Tensor:
        for row in self.own:
            h = F.linear(h, row.view(WIDTH, WIDTH)).relu()
        return h


@pytest.mark.parametrize("model", [SeveralInOne, TwoForms, OneMatrix, Filter, LayersInRows])
def test_matrices_that_are_kept_in_one_axis_are_admitted(model: type[Between]) -> None:
    _, own = rows(model())
    assert own.fallback is not None
    assert "kept in one axis" in own.fallback


class Diagonal(Between):
    entries = (WIDTH,)

    def core(self, h: Tensor) -> Tensor:
        return h @ torch.diag(self.own)


def test_a_vector_on_a_diagonal_is_a_gain() -> None:
    _, own = rows(Diagonal())
    assert (own.role, own.norm, own.fallback) == ("gain", "rms", None)


class StackBetweenOthers(Between):
    """Rows of a matrix, of which some in the middle are a stack of layers."""

    entries = (13 * WIDTH, WIDTH)

    def core(self, h: Tensor) -> Tensor:
        for pair in self.own[4 * WIDTH : 12 * WIDTH].view(4, 2, WIDTH, WIDTH):
            h = h + F.linear(F.linear(h, pair[0]).relu(), pair[1])
        return F.linear(h, self.own[:WIDTH])


def test_a_stack_that_is_part_of_an_axis_has_blocks_that_fill_it() -> None:
    _, own = rows(StackBetweenOthers())
    # What nothing reads stays with its neighbour.
    assert [block.size for block in own.blocks] == [4 * WIDTH, *[WIDTH] * 7, 2 * WIDTH]
