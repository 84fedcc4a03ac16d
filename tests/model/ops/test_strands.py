"""Values that were put beside each other, against the entries that the real tensors hold."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normc.model.ops.partners import partners_of
from normc.model.ops.reshaping import reshape
from normc.model.ops.slices import cut, select_entry
from normc.model.ops.strands import beside
from normc.model.ops.value import Axis, Value, merge, parameter_value

SHAPES = (
    st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3)
    .map(tuple)
    .filter(
        lambda shape: math.prod(shape) > 1  # an axis of one entry has no runs
    )
)
AXIS = Axis("w", 0)


def activation(size: int, shape: tuple[int, ...]) -> tuple[Value, torch.Tensor]:
    """An output axis of `size` entries seen as `shape`, abstract and as the numbers of its entries."""
    value = replace(parameter_value("w", (size,)), kind="data")
    return reshape(value, shape), torch.arange(size).reshape(shape)


@st.composite
def joined(draw: st.DrawFn) -> tuple[Value, torch.Tensor]:
    """An activation that was cut apart and put together, several times, in any order, along any dimension."""
    shape = draw(SHAPES)
    value, real = activation(math.prod(shape), shape)
    for turn in range(draw(st.integers(1, 4))):
        dim = draw(st.integers(0, max(0, len(value.dims) - 1)))
        if not value.dims:
            break
        size = value.shape[dim]
        match draw(st.sampled_from(["transpose", "reshape", "slice", "select", "cat", "stack"])):
            case "transpose":
                order = list(range(len(value.dims)))
                order[0], order[dim] = order[dim], order[0]
                value, real = value.with_dims(value.dims[i] for i in order), real.permute(order)
            case "reshape":
                whole = draw(st.booleans())
                new = (math.prod(value.shape),) if whole else draw(st.permutations(value.shape).map(tuple))
                value, real = reshape(value, new), real.reshape(new)
            case "slice":
                start = draw(st.integers(0, size - 1))
                length = draw(st.integers(1, size - start))
                value, real = cut(value, dim, start, length), real.narrow(dim, start, length)
            case "select":
                where = draw(st.integers(0, size - 1))
                value, real = select_entry(value, dim, where), real.select(dim, where)
            case "cat":
                ends = sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))})
                order = draw(st.permutations(range(len(ends) - 1)))
                values = [cut(value, dim, ends[i], ends[i + 1] - ends[i]) for i in order]
                real = torch.cat([real.narrow(dim, ends[i], ends[i + 1] - ends[i]) for i in order], dim)
                value = beside(values, dim, tuple(real.shape), f"cat{turn}")
            case _:
                order = draw(st.permutations(range(size)))
                real = torch.stack([real.select(dim, i) for i in order], dim)
                values = [select_entry(value, dim, i) for i in order]
                grown = [v.with_dims((*v.dims[:dim], (), *v.dims[dim:])) for v in values]
                value = beside(grown, dim, tuple(real.shape), f"stack{turn}")
    return value, real


def held(real: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """The entries in a tensor of numbers of entries, as spans."""
    return merge((int(i), int(i) + 1) for i in real.unique())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(joined(), st.data())
def test_what_was_put_together_holds_what_it_is_said_to_hold(
    pair: tuple[Value, torch.Tensor], data: st.DataObject
) -> None:
    value, real = pair
    assert value.shape == tuple(real.shape)
    assert value.spread or value.origins().get(AXIS, ()) == held(real)
    if value.dims and not value.spread:
        dim = data.draw(st.integers(0, len(value.dims) - 1))
        start = data.draw(st.integers(0, value.shape[dim] - 1))
        part = cut(value, dim, start, data.draw(st.integers(1, value.shape[dim] - start)))
        seen = held(real.narrow(dim, start, part.shape[dim]))
        assert part.spread or part.origins().get(AXIS, ()) == seen


@settings(max_examples=200, deadline=None, derandomize=True)
@given(joined())
def test_a_vector_meets_the_entries_that_it_lies_over(pair: tuple[Value, torch.Tensor]) -> None:
    value, real = pair
    if not value.dims or value.spread:
        return
    met: dict[int, set[int]] = {}
    size = value.shape[-1]
    for partner in partners_of(parameter_value("b", (size,)), value, [len(value.dims) - 1]):
        for i in range(partner.size):
            first = partner.first + i * partner.step
            met.setdefault(partner.start + i * partner.stride, set()).update(
                first + place for start, stop in partner.around for place in range(start, stop)
            )
            assert partner.beside == ((0, 1),)
    expected = {i: set(real.reshape(-1, size)[:, i].tolist()) for i in range(size)} if size > 1 else {}
    assert met == expected
