"""What `normc tune` keeps, and how it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normc.cli import main
from normc.tools import tuning
from normc.tools.tuning import Timing, candidates, tune
from normc.update.kernels.tiles import TILES, Tile, tuned, tuned_file

NAME = "Some GPU (80 GB)"
OTHER = Tile(64, 2, 64, 4, 4, 4)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for what is kept."""
    monkeypatch.setenv("NORMC_CACHE", str(tmp_path / "kept"))
    tuned.cache_clear()
    return tmp_path / "kept"


def with_gpu(monkeypatch: pytest.MonkeyPatch, faster: tuple[int, int]) -> None:
    def fastest(n: int, k: int, batch: int) -> Timing:
        used = tuned(NAME)[n, k]
        best, after = (OTHER, 0.5) if (n, k) == faster and used != OTHER else (used, 1.0)
        return Timing(n, k, batch, 2.0, used, 1.0, best, after)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: NAME)
    monkeypatch.setattr(tuning, "fastest", fastest)


def test_faster_tiles_are_kept_and_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuned(NAME) == TILES
    with_gpu(monkeypatch, (768, 768))
    lines: list[str] = []
    assert len(tune(60.0, lines.append)) == len(TILES)
    assert tuned_file(NAME).parent == folder
    assert tuned(NAME) == {**TILES, (768, 768): OTHER}
    assert f"1 of {len(TILES)} sizes" in lines[-1]
    with_gpu(monkeypatch, (4096, 4096))
    tune(60.0, lines.append)
    assert tuned(NAME) == {**TILES, (768, 768): OTHER, (4096, 4096): OTHER}
    assert tuned("Another GPU") == TILES


def test_time_that_is_up_leaves_sizes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, (768, 768))
    lines: list[str] = []
    assert tune(-1.0, lines.append) == []
    assert any("out of time" in line for line in lines)
    assert tuned(NAME) == TILES


@pytest.mark.parametrize(
    "text",
    [
        "[", "{\"tiles\": 3}", "{\"other\": {}}", "[1]",
        '{"tiles": {"768": {}}}',
        '{"tiles": {"768,768": {"block": 100, "ratio": 1, "depth": 64, "group": 8, "warps": 4, "stages": 3}}}',
        '{"tiles": {"768,768": {"block": 64, "ratio": 1, "depth": 64, "group": "x", "warps": 4, "stages": 3}}}',
        '{"tiles": {"768,768": {"block": 64, "ratio": 1, "depth": 64, "group": 8, "warps": 4, "stages": 900}}}',
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_left_out_with_a_warning(text: str) -> None:
    tuned_file(NAME).parent.mkdir()
    tuned_file(NAME).write_text(text)
    with pytest.warns(UserWarning, match="left out"):
        assert tuned(NAME) == TILES


def test_candidates_fit_the_size() -> None:
    assert all(one.block * one.ratio <= 256 for one in candidates(200))
    assert {one.block for one in candidates(4096)} == {128}
    assert list(candidates(17)) and all(one.block == 64 for one in candidates(17))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_command_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--seconds", "1"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
