"""normc.save and normc.load: whole files, with the plan, or errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normc


def made(recipe: str = "muon", planned: bool = True) -> tuple[nn.Module, normc.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, normc.compile(model, torch.ones(2, 6) if planned else None, recipe=recipe, lr=0.02, compile=False)


def train(model: nn.Module, opt: normc.Optimizer, first: int, steps: int) -> None:
    for seed in range(first, first + steps):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
        (model(x) - x[:, :3]).square().mean().backward()
        opt.step()
        opt.zero_grad()


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_plan_comes_back(tmp_path: Path) -> None:
    _, opt = made()
    path = normc.save(opt.plan, tmp_path / "plan.json")
    assert path.read_text() == opt.plan.to_json()
    assert normc.load(path) == opt.plan


@pytest.mark.parametrize("planned", [True, False])
def test_an_optimizer_goes_on_from_its_file(tmp_path: Path, planned: bool) -> None:
    model, opt = made()
    train(model, opt, 0, 3)
    at, path = {key: value.clone() for key, value in model.state_dict().items()}, tmp_path / "opt.pt"
    normc.save(opt, path)
    assert [file.name for file in tmp_path.iterdir()] == ["opt.pt"]
    train(model, opt, 3, 2)
    again, other = made(planned=planned)
    again.load_state_dict(at)
    found = normc.load(path, other)
    assert isinstance(found, normc.Checkpoint)
    assert found.plan == other.plan == opt.plan
    train(again, other, 3, 2)
    assert torch.equal(weights(again), weights(model))
    # By hand, in a process that has no optimizer yet.
    again.load_state_dict(at)
    third = normc.compile(again, plan=found.plan, lr=1.0, compile=False)
    third.load_state_dict(normc.load(path).state)  # type: ignore[union-attr]  # it is a checkpoint
    train(again, third, 3, 2)
    assert torch.equal(weights(again), weights(model))


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, opt = made()
    path = normc.save(opt, tmp_path / "opt.pt")
    before = path.read_bytes()
    train(model, opt, 0, 1)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(normc.NormcError, match="No space left"):
        normc.save(opt, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["opt.pt"]


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    _, opt = made()
    path = normc.save(opt, tmp_path / "opt.pt")
    for name, content in {
        "cut": path.read_bytes()[:-200], "empty": b"", "text": b"hello", "json": b'{"a": 1}', "bits": b"{\xff",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(normc.NormcError):
            normc.load(tmp_path / name)
    torch.save(opt.state_dict(), tmp_path / "plain")
    with pytest.raises(normc.NormcError, match="not written by normc"):
        normc.load(tmp_path / "plain")
    torch.save({**torch.load(path), "version": 2}, tmp_path / "later")
    with pytest.raises(normc.NormcError, match="version 2"):
        normc.load(tmp_path / "later")
    with pytest.raises(normc.NormcError, match="can't be read"):
        normc.load(tmp_path / "nowhere")
    with pytest.raises(normc.NormcError, match="can't be written"):
        normc.save(opt, tmp_path / "no" / "folder")
    with pytest.raises(normc.NormcError, match="Sequential can't be saved"):
        normc.save(nn.Sequential(), path)  # type: ignore[arg-type]
    with pytest.raises(normc.NormcError, match="not known yet"):
        normc.save(made(planned=False)[1], path)
    with pytest.raises(normc.NormcError, match="another plan"):
        normc.load(path, made("scion")[1])
    with pytest.raises(normc.NormcError, match="recipe"):
        normc.load(path, made("scion", planned=False)[1])
