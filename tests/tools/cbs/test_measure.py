"""Steps to a target where they are known: quadratics, without and with noise; averages; what is printed and refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import normc
from normc.cbs import Measurement, Point, Trial, averaged, fit, measure
from normc.errors import NormcError
from normc.tools.cbs.trial import checks, run
from tests.house.tree import ROOT

COORDINATES, NOISE = 20_000, 2.0


class Weights(nn.Module):
    """A vector, and a buffer that counts."""

    def __init__(self, count: int = 1, value: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((count,), value, dtype=torch.float64))
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))


def height(model: nn.Module) -> float:
    """The mean of w^2 / 2."""
    assert isinstance(model, Weights)
    return float(model.w.square().mean()) / 2


def quadratic(count: int, noise: float) -> Callable[[int, float], Trial]:
    """SGD on the mean of w^2 / 2 from w = 1; a batch's gradient is off by noise / sqrt(batch) in every coordinate."""

    def train(batch: int, lr: float) -> Trial:
        model = Weights(count)
        opt = torch.optim.SGD(model.parameters(), lr=lr)
        draw = torch.Generator().manual_seed(batch)

        def step() -> None:
            error = torch.randn(count, generator=draw, dtype=torch.float64) * noise / math.sqrt(batch)
            model.w.grad = model.w.detach() + error
            opt.step()

        return Trial(model, step, height)

    return train


def expected_steps(batch: int, lr: float, decay: float, target: float, noise: float) -> int:
    """The first T at which the mean of avg^2 / 2 is at most `target`, by the mean and variance of the average.

    w_t = q^t + sum over s <= t of q^(t - s) e_s with q = 1 - lr and e of variance lr^2 noise^2 / batch, and the average
    has the weights decay^(T - t) over their sum; so e_s comes in with the sum over t >= s of both.
    """
    q = 1 - lr
    for steps in range(1, 10_000):
        shares = [decay ** (steps - t) for t in range(1, steps + 1)]
        total = sum(shares)
        mean = sum(share * q**t for t, share in enumerate(shares, 1)) / total
        variance, tail = 0.0, 0.0
        for share in reversed(shares):
            tail = share / total + q * tail
            variance += tail**2
        if (mean**2 + variance * lr**2 * noise**2 / batch) / 2 <= target:
            return steps
    raise AssertionError("never")


def test_without_noise_steps_are_those_of_the_formula() -> None:
    found = measure(quadratic(1, 0.0), (1, 2, 4), target=1e-3, lrs=(0.05, 0.1, 0.2), decays=(0.9,), resolution=0)
    least = expected_steps(1, 0.2, 0.9, 1e-3, 0.0)
    assert least < expected_steps(1, 0.1, 0.9, 1e-3, 0.0)
    assert [(point.steps, point.lr) for point in found.points] == [(least, 0.2)] * 3
    q, d = 0.8, 0.9
    average = (1 - d) / (1 - d**least) * q * (d**least - q**least) / (d - q)
    assert found.points[0].loss == pytest.approx(average**2 / 2)


def test_with_noise_steps_are_those_of_the_formula_and_so_is_the_law() -> None:
    target, lrs, sizes = 0.02, (0.03, 0.06, 0.12, 0.24), (4, 8, 16, 32, 64, 128, 256)
    found = measure(quadratic(COORDINATES, NOISE), sizes, target, lrs=lrs, decays=(0.8,), resolution=0, limit=300)
    known = []
    for point in found.points:
        every = {
            lr: expected_steps(point.batch, lr, 0.8, target, NOISE) for lr in lrs if _gets_there(point, lr, target)
        }
        known.append(min(every.values()))
        assert point.steps is not None
        assert abs(point.steps - known[-1]) <= 1
    steps = [point.steps or 0 for point in found.points]
    assert steps == sorted(steps, reverse=True)
    assert found.fit().critical == pytest.approx(fit(sizes, known).critical, rel=0.05)
    assert found.points[0].lr < found.points[-1].lr  # noise wants small steps


def _gets_there(point: Point, lr: float, target: float) -> bool:
    """Whether the average's variance alone ends below the target (that of T -> infinity, by the same sums)."""
    tail, variance = 0.0, 0.0
    for t in range(2000):
        tail = 0.2 * 0.8**t + (1 - lr) * tail
        variance += tail**2
    return variance * lr**2 * NOISE**2 / point.batch / 2 < 0.9 * target


def inside(average: AveragedModel) -> Weights:
    """The copy that holds the averages."""
    assert isinstance(average.module, Weights)
    return average.module


def test_an_average_is_the_weighted_mean_of_all_steps() -> None:
    torch.manual_seed(0)
    model = Weights(3)
    average = averaged(model, 0.7)
    states = []
    for step in range(6):
        with torch.no_grad():
            model.w.copy_(torch.randn(3, dtype=torch.float64))
            model.seen += 1
        average.update_parameters(model)
        states.append(model.w.detach().clone())
        weights = torch.tensor([0.7 ** (step - k) for k in range(step + 1)], dtype=torch.float64)
        expected = (weights[:, None] * torch.stack(states)).sum(0) / weights.sum()
        torch.testing.assert_close(inside(average).w.detach(), expected)
    assert int(inside(average).seen) == 6
    assert not inside(average).training
    assert model.training
    for bad in (1.0, -0.1, math.nan):
        with pytest.raises(NormcError, match="decay is "):
            averaged(model, bad)


def test_an_average_without_decay_is_the_model_itself() -> None:
    model = Weights(2, 5.0)
    average = averaged(model, 0.0)
    average.update_parameters(model)
    with torch.no_grad():
        model.w.fill_(3.0)
    average.update_parameters(model)
    torch.testing.assert_close(inside(average).w.detach(), model.w.detach())


def test_the_first_average_to_arrive_counts() -> None:
    alone = {d: run(quadratic(1, 0.0)(1, 0.1), 1e-2, (d,), 1000) for d in (0.5, 0.9)}
    both = run(quadratic(1, 0.0)(1, 0.1), 1e-2, (0.9, 0.5), 1000)
    assert both == min(alone.values(), key=lambda one: one.steps or 0)
    assert both.decay == 0.5  # what falls without noise is best not averaged


def test_checks_are_as_far_apart_as_the_resolution_says() -> None:
    assert list(checks(10, 1, 0.0)) == list(range(1, 11))
    assert list(checks(10, 4, 0.0)) == [4, 8, 10]
    steps = list(checks(5000, 1, 0.02))
    assert steps[:50] == list(range(1, 51))
    assert all(later - sooner <= 0.02 * sooner + 1 for sooner, later in pairwise(steps))
    assert steps[-1] == 5000


def test_a_run_that_diverges_stops_and_others_count() -> None:
    made = []

    def train(batch: int, lr: float) -> Trial:
        made.append(lr)
        return quadratic(1, 0.0)(batch, lr)

    found = measure(train, (1, 2, 3), target=1e-3, lrs=(1e200, 0.2), decays=(0.5,), limit=200)
    assert {point.lr for point in found.points} == {0.2}
    assert made[:4] == [1e200, 0.2, 0.2, 1e200]  # the best of one batch size comes first in the next


def test_a_learning_rate_gets_no_more_steps_than_the_best() -> None:
    taken: dict[float, int] = {}

    def train(batch: int, lr: float) -> Trial:
        trial = quadratic(1, 0.0)(batch, lr)

        def step() -> None:
            taken[lr] = taken.get(lr, 0) + 1
            trial.step()

        return Trial(trial.model, step, trial.loss)

    found = measure(train, (1, 2, 3), target=1e-3, lrs=(0.2, 0.001), decays=(0.5,), resolution=0)
    steps = found.points[0].steps
    assert steps is not None
    assert taken == {0.2: 3 * steps, 0.001: 3 * (steps - 1)}


def test_a_search_of_the_nearest_learning_rates_leaves_out_the_others() -> None:
    tried: dict[int, list[float]] = {1: [], 2: [], 3: []}

    def train(batch: int, lr: float) -> Trial:
        tried[batch].append(lr)
        return quadratic(1, 0.0)(batch, lr)

    # Without averages w becomes (1 - lr) w in each step: of these, 0.8 is best, and 0.4 and 1.6 do alike.
    lrs = (0.1, 0.2, 0.4, 0.8, 1.6, 1.9)
    found = measure(train, (1, 2, 3), 1e-3, lrs=lrs, decays=(0.0,), resolution=0, search="nearest")
    assert {point.lr for point in found.points} == {0.8}
    assert tried == {1: [0.1, 0.2, 0.4, 0.8, 1.6], 2: [0.8, 0.4, 1.6], 3: [0.8, 0.4, 1.6]}


def test_a_target_that_is_never_reached_is_an_error_that_says_how_near_it_was() -> None:
    with pytest.raises(NormcError, match=r"target 0.001 in 5 steps: 1 \(lowest 0\.\d+ at lr 0.1\)"):
        measure(quadratic(1, 0.0), (1, 2, 3), target=1e-3, lrs=(0.1,), limit=5)
    # Noise keeps the two smallest batches above it: the others are fitted.
    found = measure(quadratic(COORDINATES, NOISE), (1, 2, 64, 128, 256), 0.02, lrs=(0.12,), decays=(0.8,), limit=100)
    assert [point.steps is None for point in found.points] == [True, True, False, False, False]
    assert "over 100" in str(found)
    assert found.fit().batches == (64, 128, 256)


def test_bad_arguments_are_named() -> None:
    train = quadratic(1, 0.0)
    good: dict[str, Any] = {"batches": (1, 2, 4), "target": 0.1, "lrs": (0.1,)}
    for bad, words in (
        ({"batches": (1, 2)}, "2 batch sizes"),
        ({"batches": (2, 2, 2)}, "1 batch sizes"),
        ({"batches": (0, 1, 2)}, "a batch size is 0"),
        ({"target": math.nan}, "target is nan"),
        ({"lrs": ()}, "lrs"),
        ({"lrs": (0.1, -1)}, "lrs"),
        ({"decays": (1.0,)}, "decays"),
        ({"limit": 0}, "limit"),
        ({"search": "some"}, "no search 'some'"),
    ):
        with pytest.raises(NormcError, match=words):
            measure(train, **{**good, **bad})
    trial = Trial(Weights(), lambda: None, lambda model: "low")  # type: ignore[arg-type,return-value]
    with pytest.raises(NormcError, match="loss returned str"):
        measure(lambda batch, lr: trial, **good)


def test_a_measurement_prints_saves_and_draws(tmp_path: Path) -> None:
    points = tuple(
        Point(batch, steps, lr, 0.99, 1.99)
        for batch, steps, lr in ((16, 1100, 1e-3), (32, 600, 2e-3), (64, 350, 4e-3), (128, 225, 4e-3))
    )
    found = Measurement(2.0, 5000, (1e-3, 2e-3, 4e-3), points)
    text = found.text(width=100)
    assert "steps = 100 + 1.6e+04 / B" in text
    assert "optimal 16; critical 51, where 20 % more examples are needed" in text
    assert "0.004!" in text
    assert "0.002!" not in text
    document = json.loads(found.to_json())
    assert document["law"]["critical"] == pytest.approx(1.2 * 16 + 0.2 * 160, rel=1e-3)
    assert [point["steps"] for point in document["points"]] == [1100, 600, 350, 225]
    found.plot(tmp_path / "cbs.png")
    assert (tmp_path / "cbs.png").stat().st_size > 5000
    with pytest.raises(NormcError, match="no plot's name"):
        found.plot(tmp_path / "cbs.txt")
    with pytest.raises(NormcError, match="can't be written"):
        found.plot(tmp_path / "nowhere" / "cbs.png")


def test_the_door_opens_to_it() -> None:
    assert normc.cbs.measure is measure
    assert "cbs" in dir(normc)


@pytest.mark.slow
def test_the_example_in_small_writes_what_it_says(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.critical_batch", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"adamw.png", "adamw.json"}
    document = json.loads((tmp_path / "adamw.json").read_text())
    assert [point["batch"] for point in document["points"]] == [32, 64, 128]
    assert f"critical {document['law']['critical']:.0f}" in done.stdout
