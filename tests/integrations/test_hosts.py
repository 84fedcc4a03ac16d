"""Every host's run equals the plain loop to the bit, and a run that is resumed equals one that wasn't stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.hosts.__main__ import WAYS, difference, said, trained
from benchmarks.hosts.host import Job, hosts
from benchmarks.hosts.plain import weights
from tests.quick import others_slow

STEPS = 12
NAMES = list(hosts)
SPAWNS = "ddp"
QUICK = ("accelerate", "lightning", "trainer")


def installed(name: str) -> str:
    missing = hosts[name].missing
    if missing:
        pytest.skip(f"{', '.join(missing)} isn't installed")
    return name


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.mark.parametrize("name", others_slow([name for name in NAMES if name != SPAWNS], QUICK))
def test_a_host_trains_as_the_plain_loop_does_and_resumes(name: str, tmp_path: Path) -> None:
    host = hosts[installed(name)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        job = Job(STEPS, tmp_path, compiled=False)
        whole, plain = (list(weights(run(job)).values()) for run in (host.train, host.plain))
        resumed = list(weights(host.train(Job(STEPS, tmp_path, resume=True, compiled=False))).values())
    finally:
        torch.set_num_threads(threads)
    assert difference(whole, plain) == 0
    assert difference(whole, resumed) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_200_steps_resumed_in_a_new_process(name: str, tmp_path: Path) -> None:
    ends = {way: trained(installed(name), way, 200, tmp_path, eager=True) for way in WAYS}
    assert difference(ends["train"], ends["resume"]) == 0
    assert difference(ends["train"], ends["plain"]) == 0


def test_a_difference_is_seen_and_said() -> None:
    ones, others = [torch.ones(2), torch.ones(3)], [torch.ones(2), torch.tensor([1.0, 1.0, 1.25])]
    assert said(difference(ones, ones)) == "to the bit"
    assert said(difference(ones, others)) == "to 2.5e-01"
