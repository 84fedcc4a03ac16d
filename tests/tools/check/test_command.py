from __future__ import annotations

import json
from pathlib import Path

import pytest

from normc.cli import main


@pytest.fixture
def target(tmp_path: Path) -> str:
    path = tmp_path / "checked.py"
    path.write_text(
        "import torch\n"
        "from torch import nn\n"
        "def build(width=32, inner=64):\n"
        "    layers = nn.Linear(8, width), nn.ReLU(), nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, 4)\n"
        "    model = nn.Sequential(*layers)\n"
        "    return model, torch.randn(16, 8)\n"
    )
    return f"{path}:build"


def test_check_prints_tables_and_writes_files(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, picture = tmp_path / "check.json", tmp_path / "check.png"
    arguments = [
        "check",
        target,
        "--widths",
        "width=32,64",
        "--widths",
        "inner=64,128",
        "--steps",
        "2",
        "--lr",
        "0.001",
    ]
    status = main([*arguments, "--json", str(numbers), "--plot", str(picture), "--width", "100", "--sharp", "3"])
    printed = capsys.readouterr().out
    for head in ("Gains", "One step", "Coordinate check over width", "spread", "verdict"):
        assert head in printed
    assert max(map(len, printed.splitlines())) <= 100
    document = json.loads(numbers.read_text())
    assert document["widths"]["sizes"] == [32, 64]
    assert len(document["widths"]["activations"][1]["rms"]) == 3
    assert status == (document["verdict"]["level"] == "wrong")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_alone_goes_to_standard_output(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", target, "--sharp", "0", "--json", "-"])
    assert json.loads(capsys.readouterr().out)["format"] == "normc check"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "width"], "gives no widths"),
        (["--widths", "width=32"], "two or more"),
        (["--widths", "width=32,64", "--widths", "inner=64"], "equally many"),
        (["--depths", "width=32,32"], "twice"),
        (["--plot", "check.pdf"], ".png or .svg"),
    ],
)
def test_mistakes_are_one_message(
    target: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", target, *arguments]) == 2
    assert message in capsys.readouterr().err
