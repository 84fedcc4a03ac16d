"""The page and the SVG as text: nothing of a model's is markup, colours can be read, and all is in one file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from normc.cli import main
from normc.plans.plan import NormPlan
from normc.plans.row import Evidence, Use
from normc.tools.picture import colors, page
from tests.door.hostile import NAMES
from tests.plans.sample import row, sample
from tests.plans.test_wiring import wired

MARKUP = ("<script>alarm()</script>", "</script><img src=x onerror=alarm()>", "<!--", "]]>", "&lt;b&gt;", "a\"onload='")
FOLDER = Path(page.__file__).parent


def hostile() -> NormPlan:
    """A plan whose every text is an attack."""
    rows = []
    for number, name in enumerate(dict.fromkeys((*MARKUP, *NAMES))):
        use = Use("hidden", name, name, name, ("out", "in"))
        told = tuple(Evidence(fact, name, name, name, name) for fact in ("role", name))
        facts: dict[str, Any] = {"evidence": told, "uses": (use,), "aliases": (f"{number}.{name}",)}
        rows.append(row(name, (8, 4), "hidden", "spectral", fallback=name if number % 3 else None, **facts))
    return NormPlan(tuple(rows), MARKUP[1], "scion", (("radius_hidden", MARKUP[0]),), MARKUP)


class Tags(HTMLParser):
    """The tags of a page, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def held(html: str) -> dict[str, object]:
    """The JSON within a page."""
    found = re.search(r'<script type="application/json" id="plan">(.*?)</script>', html, re.S)
    assert found
    data = json.loads(found[1])
    assert isinstance(data, dict)
    return data


def test_names_of_a_model_are_never_markup() -> None:
    ordinary, attacked = (Tags(plan.to_html()) for plan in (sample(), hostile()))
    assert [tag for tag, _ in attacked.tags] == [tag for tag, _ in ordinary.tags]
    data = held(hostile().to_html())
    names = [row["name"] for row in data["rows"]]  # type: ignore[attr-defined]
    assert len(names) == len(hostile())
    assert MARKUP[1] in names
    root = ET.fromstring(hostile().to_svg())
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "title", "rect", "path", "text", "tspan"}
    hostile().to_html().encode()
    hostile().to_svg().encode()


def test_the_page_asks_nothing_of_a_network() -> None:
    found = Tags(wired().to_html())
    assert not [facts for _, facts in found.tags if "src" in facts]
    assert [facts["href"] for _, facts in found.tags if "href" in facts] == ["data:,"]
    policy = next(facts["content"] for tag, facts in found.tags if tag == "meta" and "http-equiv" in facts)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", wired().to_html())


def test_a_notebook_gets_the_page_in_a_frame_of_its_own() -> None:
    ((tag, facts),) = Tags(hostile()._repr_html_()).tags
    assert (tag, facts["sandbox"]) == ("iframe", "allow-scripts")
    assert facts["srcdoc"] == hostile().to_html()


def test_the_page_knows_what_explain_knows() -> None:
    data = held(sample().to_html())
    texts = data["texts"]
    told = {row["name"]: [texts[i] for i in row["facts"]] for row in data["rows"]}  # type: ignore[attr-defined,index]
    for name in sample().by_name:
        said = "".join(sample().explain(name, 10_000).split())
        for text in told[name]:
            assert "".join(text.split()) in said


def test_a_page_of_repeated_layers_says_each_thing_once() -> None:
    layers = [replace(each, name=f"{n}.{each.name}", aliases=()) for n in range(20) for each in sample().rows]
    deep = NormPlan(tuple(layers), "Deep", "uscion")
    once = len(sample().to_html())
    assert len(deep.to_html()) < once + 20 * 12_000


def test_the_svg_shows_every_kind_of_mark() -> None:
    texts = unescape(" ".join(re.findall(r"<t(?:ext|span)[^>]*>([^<]*)(?=<)", wired().to_svg())))
    for word in ("Sample", "×4", "64→192", "q k v, 3 × 64", "FALLBACK", "frozen", "tied", "unused", "sign"):
        assert word in texts, word


def test_files_are_written_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, html, svg = (tmp_path / name for name in ("plan.json", "plan.html", "plan.svg"))
    saved.write_text(wired().to_json())
    assert main(["plan", str(saved), "--html", str(html), "--svg", str(svg)]) == 0
    assert html.read_text() == wired().to_html()
    assert svg.read_text() == wired().to_svg()
    assert capsys.readouterr().err == f"wrote {html}\nwrote {svg}\n"
    assert main(["plan", str(saved), "--html", str(tmp_path / "no" / "plan.html")]) == 2
    assert "can't be written" in capsys.readouterr().err


# Light over dark, as WCAG measures it: text has to have 4.5 at least.


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["", ".dark"])
def test_words_can_be_read(scheme: str) -> None:
    style = (FOLDER / "page.css").read_text()
    block = re.search(rf":root{re.escape(scheme)} {{(.*?)}}", style, re.S)
    assert block
    value = dict(re.findall(r"--([\w-]+): (#\w+)", block[1]))
    pairs = [(ink, paper) for ink in ("ink", "soft", "warn", "bad", "accent") for paper in ("paper", "card", "box")]
    pairs += [("warn", "warn-paper"), ("bad", "bad-paper"), ("paper", "ink"), ("soft", "hair")]
    low = {pair: round(found, 2) for pair in pairs if (found := contrast(*(value[name] for name in pair))) < 4.5}
    assert not low
    label = "#10131a" if scheme else "#ffffff"
    every = [*colors._KNOWN.values(), *colors._OTHERS]
    assert min(contrast(color.dark if scheme else color.light, label) for color in every) >= 4.5
