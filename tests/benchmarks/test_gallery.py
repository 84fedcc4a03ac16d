"""The gallery: plans are what was written by hand, pages are what the script writes, and all threads are linked."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import normc
from benchmarks.gallery.__main__ import FOLDER, made, main, stale
from benchmarks.gallery.entries import ENTRIES
from benchmarks.gallery.page import planned

QUICK = ("gated-attention", "swiglu-interleaved", "causal-convolutions")


def test_pages_of_plain_models_are_what_is_written() -> None:
    assert not stale(made(QUICK)), "run `make gallery`"


@pytest.mark.slow
def test_all_pages_are_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr()


def test_every_entry_has_a_page_that_is_short_and_links_its_threads() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert {file.stem for file in FOLDER.glob("*.md")} == {"index", *ENTRIES}
    for name, entry in ENTRIES.items():
        text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, f"{name} is too long"
        assert entry.reports, name
        for report in entry.reports:
            assert re.fullmatch(r"\[[\w.-]+/[\w.-]+ #\d+\]\(https://github\.com/\S+/(issues|pull)/\d+\)", report.link)
            assert report.link in text, name
            assert report.link in index, name


def test_a_wrong_row_stops_the_page() -> None:
    entry = ENTRIES["swiglu-interleaved"]
    case = replace(entry.case, expect=entry.case.expect | {"w13.weight": "hidden oi spectral"})
    with pytest.raises(normc.NormcError, match=r"w13\.weight: 'hidden oi spectral ~512 ~512', but it is"):
        planned("swiglu-interleaved", replace(entry, case=case))


def test_an_expectation_that_no_parameter_meets_stops_the_page() -> None:
    entry = replace(ENTRIES["swiglu-interleaved"], rows=("w12.weight",))
    with pytest.raises(normc.NormcError, match=r"w12\.weight: no parameter meets it"):
        planned("swiglu-interleaved", entry)


def test_a_page_that_differs_is_named(tmp_path: Path) -> None:
    pages = made(QUICK[:1])
    assert stale(pages, tmp_path) == ["gated-attention.md"]
    (tmp_path / "gated-attention.md").write_text(pages["gated-attention"].text, encoding="utf-8")
    assert not stale(pages, tmp_path)


def test_an_unknown_entry_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpt-9"]) == 1
    assert "the gallery has no 'gpt-9'" in capsys.readouterr().err
