"""The page of environment variables has those that the source reads, and no others."""

from __future__ import annotations

import re

from tests.house.tree import ROOT, modules

NAME = re.compile(r"NORMC_[A-Z_]*[A-Z]")


def test_the_page_lists_what_the_source_reads() -> None:
    read = {
        name for file in modules().values() for name in re.findall(r"environ[^\n]*?\"(NORMC_\w+)\"", file.read_text())
    }
    page = re.findall(r"^\| `(NORMC_\w+)` \| \S", (ROOT / "docs" / "environment.md").read_text(), re.M)
    assert len(page) == len(set(page))
    assert set(page) == read


def test_no_other_is_named_anywhere() -> None:
    page = set(NAME.findall((ROOT / "docs" / "environment.md").read_text()))
    folders = ("normc", "passes", "backends", "benchmarks", "examples", "docs", "tests")
    files = [file for folder in folders for end in ("py", "md") for file in (ROOT / folder).rglob(f"*.{end}")]
    files += [ROOT / "README.md", ROOT / "NOTES.md", ROOT / "Makefile", ROOT / ".ci" / "run"]
    named = {name: file for file in files for name in NAME.findall(file.read_text())}
    strangers = {name: str(file) for name, file in named.items() if name not in page}
    assert not strangers
