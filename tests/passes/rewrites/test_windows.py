"""Owners' work in windows: how many, and whose matrices are in which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normc.passes.rewrites.windows import NUMBERS, Load, number_of, pipelined, windows_of
from normc.update.program.rates import Rates

RATES, MOST = Rates(), max(NUMBERS)


def alike(cost: float, there: float, back: float, ranks: int, rows: int) -> Load:
    """So many rows on each rank, all of them alike; `there` and `back` are of a rank."""
    number = ranks * rows
    return Load(
        [int(cost / rows)] * number, [index % ranks for index in range(number)], [there / rows] * number,
        [back / rows] * number, ranks,
    )  # fmt: skip


LLAMA = (40e12, 4.3e9, 2.1e9, 8)  # operations and bytes as of eight billion parameters on eight ranks


def test_small_steps_stay_whole_and_large_ones_are_cut() -> None:
    assert number_of(alike(1e9, 1e5, 1e5, 8, 12), RATES) == 1
    assert 1 < number_of(alike(*LLAMA, 28), RATES) <= MOST
    assert number_of(alike(40e12, 0.0, 0.0, 8, 28), RATES) == 1  # nothing to hide
    assert number_of(alike(*LLAMA, 1), RATES) == 1  # nothing to cut
    assert number_of(alike(*LLAMA, 28), None) == number_of(Load([], [], [], [], 8), RATES) == 1


def test_what_cant_be_cut_evenly_stays_whole() -> None:
    """Some ranks own one large matrix, others two of half its size: in two windows the large ones would take as long
    as the small ones of both.
    """
    costs, sizes = [2 * 10**12] * 4 + [10**12] * 8, [2e9] * 4 + [1e9] * 8
    load = Load(costs, [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7], sizes, sizes, 8)
    assert number_of(load, RATES) == 1


@given(st.integers(10**6, 10**15), st.floats(0, 1e12), st.floats(0, 1e12), st.integers(2, 64), st.integers(1, 20))
def test_windows_pay_for_themselves(work: int, there: float, back: float, ranks: int, rows: int) -> None:
    load = alike(work, there, back, ranks, rows)
    number = number_of(load, RATES)
    assert number in NUMBERS and number <= rows
    assert number_of(load, Rates(launch=1e9)) == 1


@given(st.lists(st.tuples(st.integers(0, 10**18), st.none() | st.integers(0, 5)), max_size=40), st.integers(1, MOST))
def test_each_owners_work_is_cut_evenly(rows: list[tuple[int, int | None]], number: int) -> None:
    costs, owners = [cost for cost, _ in rows], [owner for _, owner in rows]
    found = windows_of(costs, owners, number)
    used = {window for window, owner in zip(found, owners, strict=True) if owner is not None}
    assert used == set(range(len(used))) and len(used) <= number
    for owner in set(owners) - {None}:
        own = sorted((-costs[index], found[index]) for index in range(len(rows)) if owners[index] == owner)
        assert [window for _, window in own] == sorted(window for _, window in own)  # alike ones are neighbours
    if len(used) == number:
        for owner in set(owners) - {None}:
            own_costs = [costs[index] for index in range(len(rows)) if owners[index] == owner]
            for window in range(number):
                share = sum(costs[i] for i in range(len(rows)) if owners[i] == owner and found[i] == window)
                assert share * number <= sum(own_costs) + number * max(own_costs)


def test_messages_of_one_window_go_under_the_work_of_another() -> None:
    work = [torch.tensor([4.0, 3.0], dtype=torch.float64)] * 3
    assert pipelined([1.0] * 3, work, [1.0] * 3) == pytest.approx(1.0 + 3 * 4.0 + 1.0)
    assert pipelined([6.0] * 3, work, [0.0] * 3) == pytest.approx(3 * 6.0 + 4.0)
    assert pipelined([1.0], work[:1], [1.0]) == pytest.approx(6.0)
    assert pipelined([], [], []) == 0.0
    idle = [torch.tensor([4.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 4.0], dtype=torch.float64)]
    assert pipelined([1.0, 1.0], idle, [1.0, 1.0]) == pytest.approx(1.0 + 1.0 + 4.0 + 1.0)
