"""`opt.explain` says what `normc plan --explain` prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import normc
from normc.cli import main
from normc.errors import NormcError

FILE = """
import torch
from torch import nn

def net():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, torch.zeros(2, 6)
"""


def net() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(2, 6)


@pytest.mark.parametrize("pattern", ["2.weight", "*.weight", "*"])
def test_it_is_the_text_of_the_command(pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "made.py"
    file.write_text(FILE)
    assert main(["plan", f"{file}:net", "--explain", pattern, "--width", "100"]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.rstrip("\n").split("\n")]
    model, inputs = net()
    opt = normc.compile(model, inputs, compile=False)
    assert opt.explain(pattern, 100).split("\n") == printed
    assert opt.explain(pattern, 100) == opt.plan.explain(pattern, 100)


def test_a_loaded_plan_is_explained_without_sizes(tmp_path: Path) -> None:
    model, inputs = net()
    plan = normc.plan(model, inputs)
    read = normc.NormPlan.from_json(plan.to_json())
    assert plan.explain("0.weight", 100).startswith(read.explain("0.weight", 100).rstrip("\n").split("\n")[0])
    assert "sizes" in plan.explain("0.weight", 100)
    assert "sizes" not in read.explain("0.weight", 100)


def test_no_such_row_and_no_plan_yet() -> None:
    model, inputs = net()
    opt = normc.compile(model, compile=False)
    with pytest.raises(NormcError, match="run the model forward once"):
        opt.explain("*")
    model(inputs)
    assert "2.weight" in opt.explain("*.weight")
    with pytest.raises(NormcError, match=r"(?s)no parameter of .* matches 'head\.\*'.*fix: "):
        opt.explain("head.*")
