"""Every folder says in two lines what lives there and what it may import, and the page of the house is current."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house.picture import BEGIN, END, PAGE, drawn
from tests.house.test_imports import PIPELINE
from tests.house.tree import imported, modules, packages, room


def said(package: str) -> str:
    """A folder's docstring."""
    return ast.get_docstring(ast.parse(modules()[package].read_text())) or ""


def within(name: str, place: str) -> bool:
    """Whether a folder is that place, or in it."""
    return name == place or name.startswith(f"{place}.")


@pytest.mark.parametrize("package", sorted(packages() - {"normc"}))
def test_a_folder_says_what_lives_there_and_what_it_may_import(package: str) -> None:
    first, _, rest = said(package).partition("\n\n")
    assert len(first.splitlines()) == 1, "one line on what lives there"
    found = re.search(r"^May import ([^.]*(?:\.\w[^.]*)*)\.$", rest, re.M | re.S)
    assert found, "then a line 'May import ...'"
    named = [name for name in re.split(r",\s+", found[1]) if name != "nothing of normc"]
    named = [each for name in named for each in (PIPELINE if name == "the pipeline" else (name,))]
    own = package.removeprefix("normc.")
    known = set(modules())
    seen = {
        other
        for module, file in modules().items()
        if within(room(module), own)
        for other in map(room, imported(file.read_text(), module, known))
        if not within(other, own)
    }
    missing = {other for other in seen if not any(within(other, name) for name in named)}
    assert not missing, f"{package} imports {sorted(missing)}, which its docstring doesn't name"
    idle = [name for name in named if name not in PIPELINE and not any(within(other, name) for other in seen)]
    assert not idle, f"{package} names {idle}, which it doesn't import"


@pytest.mark.parametrize("package", sorted(packages() - {"normc"}))
def test_a_folders_own_file_does_nothing(package: str) -> None:
    assert len(ast.parse(modules()[package].read_text()).body) == 1, "a docstring alone: what is public is in normc"


def test_the_page_of_the_house_is_current() -> None:
    page = PAGE.read_text()
    assert BEGIN in page
    assert END in page
    assert drawn(page) == page, "run `make picture`"
