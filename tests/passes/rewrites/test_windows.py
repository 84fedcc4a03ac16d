"""Owners' work in windows: how many, and whose matrices are in which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normc.passes.rewrites.windows import MOST, Load, number_of, pipelined, windows_of
from normc.update.program.rates import Rates

RATES = Rates()
LLAMA = Load(int(40e12), 4.3e9, 2.1e9, 8, 28)  # operations and bytes as of eight billion parameters on eight ranks


def test_small_steps_stay_whole_and_large_ones_are_cut() -> None:
    assert number_of(Load(int(1e9), 1e5, 1e5, 8, 12), RATES) == 1
    assert 1 < number_of(LLAMA, RATES) <= MOST
    assert number_of(Load(LLAMA.work, 0.0, 0.0, 8, 28), RATES) == 1  # nothing to hide
    assert number_of(Load(LLAMA.work, LLAMA.there, LLAMA.back, 8, 1), RATES) == 1  # nothing to cut
    assert number_of(LLAMA, None) == 1


@given(st.integers(10**6, 10**15), st.floats(0, 1e12), st.floats(0, 1e12), st.integers(2, 4096), st.integers(1, 50))
def test_windows_cost_no_more_than_one(work: int, there: float, back: float, ranks: int, matrices: int) -> None:
    load = Load(work, there, back, ranks, matrices)
    number = number_of(load, RATES)
    assert 1 <= number <= min(MOST, matrices)
    if number > 1:
        assert number_of(load, Rates(launch=1e6)) == 1


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
