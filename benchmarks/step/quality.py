"""How orthogonal an update is, on spectra that are known: from zero weights, the first step is the update itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.step.contest import LR, Problem, Runner
from benchmarks.step.gradient import FILE

LARGEST = 1700  # short side of the largest matrix that is decomposed
RANGE = (0.7, 1.2)


@dataclass(frozen=True, slots=True)
class Trial:
    """The gradient of one matrix: its spectrum's name, what it should become, and the rank that counts."""

    index: int
    spectrum: str
    gradient: Tensor
    target: Tensor
    rank: int


def _gaussian(short: int, long: int, device: torch.device) -> Tensor:
    x = torch.randn(short, long, device=device, dtype=torch.float64)
    values: Tensor = torch.linalg.eigvalsh(x @ x.mT)
    return values.flip(0).clamp_min(0).sqrt()


def _real(short: int, _: int, device: torch.device) -> Tensor:
    """That of a real gradient (benchmarks/step/gradient.py), at the same shares of the rank."""
    known = torch.tensor(json.loads(FILE.read_text())["values"], device=device, dtype=torch.float64).log()
    place = (torch.arange(short, device=device, dtype=torch.float64) + 0.5) / short * len(known) - 0.5
    place = place.clamp(0, len(known) - 1)
    low = place.floor().long().clamp(max=len(known) - 2)
    values: Tensor = torch.lerp(known[low], known[low + 1], place - low).exp()
    return values


SPECTRA: dict[str, Callable[[int, int, torch.device], Tensor]] = {
    "gaussian": _gaussian,
    "1/i": lambda short, _, device: 1 / torch.arange(1, short + 1, device=device, dtype=torch.float64),
    "half rank": lambda short, long, device: _gaussian(short, long, device)[: short // 2],
    "real gradient": _real,
}


def trials(given: Problem) -> list[Trial]:
    """A matrix for each spectrum, square and not, of the sizes that are small enough; made in float64."""
    torch.manual_seed(0)
    chosen: list[Trial] = []
    for square in (True, False):
        sizes = [
            (min(m.shape), index) for index, m in enumerate(given.matrices) if (m.shape[0] == m.shape[1]) is square
        ]
        fitting = [index for short, index in sizes if 16 <= short <= LARGEST]
        largest = max((min(given.matrices[index].shape) for index in fitting), default=0)
        fitting = [index for index in fitting if min(given.matrices[index].shape) == largest]
        for (name, spectrum), index in zip(SPECTRA.items(), fitting, strict=False):
            rows, columns = given.matrices[index].shape
            short, long = sorted((rows, columns))
            values = spectrum(short, long, given.device)
            left, right = (_frame(side, len(values), given.device) for side in (rows, columns))
            gradient, target = (left * (values / values.norm())) @ right.mT, left @ right.mT
            chosen.append(Trial(index, name, gradient.float(), target, len(values)))
    return chosen


def _frame(rows: int, columns: int, device: torch.device) -> Tensor:
    """Random orthonormal columns."""
    frame: Tensor = torch.linalg.qr(torch.randn(rows, columns, device=device, dtype=torch.float64)).Q
    return frame


def pose(given: Problem, chosen: list[Trial]) -> None:
    """Zero weights, and the trials' gradients in place."""
    for parameter in given.everything():
        parameter.data.zero_()
    for trial in chosen:
        grad = given.matrices[trial.index].grad
        assert grad is not None
        grad.copy_(trial.gradient)


def judge(runner: Runner, chosen: list[Trial]) -> list[dict[str, Any]]:
    """After the first step: the share of singular values in range, and the error against the float64 polar factor."""
    found: list[dict[str, Any]] = []
    if runner.scale is None or not runner.matrices:
        return found
    for trial in chosen:
        update = -runner.matrices[trial.index].detach().double() / (LR * runner.scale(*trial.target.shape))
        values = torch.linalg.eigvalsh(update @ update.mT if update.shape[0] <= update.shape[1] else update.mT @ update)
        values = values.flip(0).clamp_min(0).sqrt()[: trial.rank]
        share = ((values >= RANGE[0]) & (values <= RANGE[1])).double().mean().item()
        error = ((update - trial.target).norm() / trial.target.norm()).item()
        finite = round(error, 4) if math.isfinite(error) else None
        numbers = {"in range": round(share, 4), "error": finite}
        found.append({"shape": list(trial.target.shape), "spectrum": trial.spectrum} | numbers)
    return found
