"""The abstract value of a view against the entries that the real view holds."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normc.model.ops.reshaping import reshape
from normc.model.ops.slices import cut, select_entry
from normc.model.ops.value import Axis, Value, merge, parameter_value

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3).map(tuple)


def entries(index: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """The set of indices in a tensor, as spans."""
    return merge((int(i), int(i) + 1) for i in index.unique())


def indices(shape: tuple[int, ...]) -> list[torch.Tensor]:
    """For every axis, a tensor of that shape that holds each entry's index along it."""
    return list(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"))


@st.composite
def views(draw: st.DrawFn) -> tuple[Value, list[torch.Tensor]]:
    """A parameter after a few random views, abstract and real."""
    shape = draw(SHAPES)
    value, real = parameter_value("w", shape), indices(shape)
    for _ in range(draw(st.integers(0, 4))):
        rank = len(value.dims)
        if rank == 0:
            break
        dim = draw(st.integers(0, rank - 1))
        size = value.shape[dim]
        match draw(st.sampled_from(["transpose", "slice", "select", "reshape"])):
            case "transpose":
                order = list(range(rank))
                order[0], order[dim] = order[dim], order[0]
                value, real = value.with_dims(value.dims[i] for i in order), [t.permute(order) for t in real]
            case "slice":
                start = draw(st.integers(0, size - 1))
                length = draw(st.integers(1, size - start))
                value, real = cut(value, dim, start, length), [t.narrow(dim, start, length) for t in real]
            case "select":
                where = draw(st.integers(0, size - 1))
                value, real = select_entry(value, dim, where), [t.select(dim, where) for t in real]
            case _:
                new = (
                    draw(st.permutations(value.shape).map(tuple)) if draw(st.booleans()) else (math.prod(value.shape),)
                )
                value, real = reshape(value, new), [t.reshape(new) for t in real]
    return value, real


@settings(max_examples=300, deadline=None, derandomize=True)
@given(views())
def test_a_view_holds_the_entries_that_it_is_said_to_hold(pair: tuple[Value, list[torch.Tensor]]) -> None:
    value, real = pair
    assert value.shape == tuple(real[0].shape)
    for axis, spans in value.origins().items():
        held, said = entries(real[axis.number]), {i for start, stop in spans for i in range(start, stop)}
        inside = {i for start, stop in held for i in range(start, stop)}
        assert inside <= said
        if not value.spread:
            assert spans == held


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SHAPES, st.data())
def test_reshaping_back_gives_the_parameter_back(shape: tuple[int, ...], data: st.DataObject) -> None:
    value = parameter_value("w", shape)
    flat = reshape(value, (math.prod(shape),))
    assert reshape(flat, shape).dims == value.dims


def test_interleaved_parts_are_told_apart() -> None:
    """BLOOM's (heads, 3, width) order: q is every third stretch."""
    value = reshape(parameter_value("w", (24, 5)), (2, 3, 4, 5))
    q = select_entry(value, 1, 0)
    assert q.origins()[Axis("w", 0)] == ((0, 4), (12, 16))
    assert select_entry(value, 1, 2).origins()[Axis("w", 0)] == ((8, 12), (20, 24))


def test_a_view_that_cuts_across_axes_is_spread_and_keeps_its_entries() -> None:
    value = reshape(parameter_value("w", (2, 3)), (3, 2))
    assert value.spread == {Axis("w", 0): ((0, 2),), Axis("w", 1): ((0, 3),)}
