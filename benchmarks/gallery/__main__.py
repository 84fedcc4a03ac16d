"""Write the gallery's pages: `python -m benchmarks.gallery [names] [--check]`.

Each plan is first held against the rows that were written by hand from the model's source. Without names all pages are
made, and docs/gallery/index.md. --check writes nothing, and fails where a page isn't what would be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.gallery.entries import ENTRIES
from benchmarks.gallery.page import Page, page, planned
from normc.errors import NormcError

FOLDER = Path(__file__).parents[2] / "docs" / "gallery"
HEAD = """# The gallery

Models in whose threads users found wrong blocks, wrong axes or wrong routing. Each page has normc's plan, and what the
usual rules by name and number of axes would do. Every row of every plan has an expectation, held against the model's
source ([the declarations](../../benchmarks/gallery)). `make gallery` checks them and writes these pages.

Expectations of transformers' models were written with the plan at hand, so they are no independent evidence. Those of
plain models came before their plan, but for the two halves of YOLO's `cv1`.

| model | what users reported | what normc infers | wrong with |
| --- | --- | --- | --- |
"""


def made(names: Iterable[str]) -> dict[str, Page]:
    """The pages of these entries. NormcError for a plan that isn't right."""
    pages = {}
    for name in names:
        if name not in ENTRIES:
            raise NormcError(f"the gallery has no {name!r}", f"choose from {', '.join(ENTRIES)}")
        pages[name] = page(name, ENTRIES[name], planned(name, ENTRIES[name]))
    return pages


def stale(pages: Mapping[str, Page], folder: Path = FOLDER) -> list[str]:
    """The files that aren't what would be written; where the pages are all of them, also the index and strangers."""
    wanted = _files(pages)
    wrong = [name for name, text in wanted.items() if not (folder / name).is_file()
             or (folder / name).read_text(encoding="utf-8") != text]  # fmt: skip
    if len(pages) == len(ENTRIES):
        wrong += [file.name for file in sorted(folder.glob("*.md")) if file.name not in wanted]
    return wrong


def _files(pages: Mapping[str, Page]) -> dict[str, str]:
    """What each file holds; the index only where no page is left out."""
    files = {f"{name}.md": made.text for name, made in pages.items()}
    if len(pages) == len(ENTRIES):
        files["index.md"] = HEAD + "\n".join(made.line for made in pages.values()) + "\n"
    return files


def main(arguments: list[str]) -> int:
    """Write pages, or check them. The exit status: 1 for a page that is out of date or a plan that is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="entries; all without any")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where a page is out of date")
    options = parser.parse_args(arguments)
    try:
        pages = made(options.names or ENTRIES)
    except NormcError as mistake:
        print(f"gallery: {mistake}", file=sys.stderr)
        return 1
    if options.check:
        wrong = stale(pages)
        print(f"out of date: {', '.join(wrong)}; run make gallery" if wrong else f"{len(pages)} pages are up to date")
        return 1 if wrong else 0
    FOLDER.mkdir(exist_ok=True)
    for name, text in _files(pages).items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"wrote {len(pages)} pages to {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
