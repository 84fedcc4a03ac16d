"""The page in a browser: it opens without an error, wide and narrow, light and dark; keys do everything."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import normc
from normc.plans.plan import NormPlan
from normc.plans.wiring import Edge, Wiring
from tests.passes.analyses.test_wiring import Stream
from tests.plans.sample import row, sample, seen, thirds
from tests.tools.picture.browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from tests.tools.picture.test_page import MARKUP, hostile

pytestmark = pytest.mark.skipif(DRIVER is None or CHROMIUM is None, reason=MISSING)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small traced model: a stream of two layers, a tied head, a layer that isn't used."""
    page = tmp_path_factory.mktemp("page") / "stream.html"
    page.write_text(normc.plan(Stream(), torch.arange(6).reshape(2, 3)).to_html())
    return page


def written(folder: Path, plan: NormPlan) -> Path:
    page = folder / "plan.html"
    page.write_text(plan.to_html(), encoding="utf-8")
    return page


def deep(layers: int) -> NormPlan:
    """As a large Llama: nine tensors a layer, and what runs between them."""
    parts = ("norm", "q", "k", "v", "o", "norm2", "gate", "up", "down")
    rows, points = [row("embed.weight", (128256, 8192), "embedding", "colnorm")], ["embed.weight"]
    joins, edges = [], []
    first = 1 + layers * len(parts)
    for layer in range(layers):
        at, start = 1 + layer * len(parts), 0 if layer == 0 else first + 2 * layer - 1
        for part in parts:
            shape = (8192,) if "norm" in part else (8192, 8192)
            told = seen("hidden", "aten.linear", "modeling.py:12")
            blocks = thirds(8192 // 3, 0) if part == "q" else ()
            norm = ("gain", "rms") if "norm" in part else ("hidden", "spectral")
            name = f"layers.{layer}.{part}.weight"
            rows.append(row(name, shape, norm[0], norm[1], 1 / (1 + layer), evidence=told, blocks=blocks))  # type: ignore[arg-type]
            points.append(name)
        joins += [f"layers.{layer}"] * 2
        middle = first + 2 * layer
        edges += [Edge(start, at, 8192, False), *(Edge(at, at + i, 8192, False) for i in (1, 2, 3))]
        edges += [Edge(at + i, at + 4, 8192, False) for i in (1, 2, 3)]
        edges += [Edge(start, middle, 8192, True), Edge(at + 4, middle, 8192, False), Edge(middle, at + 5, 8192, False)]
        edges += [Edge(at + a, at + b, 28672, False) for a, b in ((5, 6), (5, 7), (6, 8), (7, 8))]
        edges += [Edge(middle, middle + 1, 8192, True), Edge(at + 8, middle + 1, 8192, False)]
    wiring = Wiring(tuple(points), tuple(joins), tuple(edges))
    return NormPlan(tuple(rows), "Deep", "scion", wiring=wiring)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 800, 380])
def test_it_opens_without_an_error_and_fits(window: Browser, stream: Path, width: int, scheme: str) -> None:
    window.open(stream, width, scheme=scheme)
    assert window.errors() == []
    assert window.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert window.run("return document.querySelectorAll('#graph .param').length") == 12
    assert window.run("return document.querySelectorAll('.join').length") == 1
    paper = window.run("return getComputedStyle(document.documentElement).backgroundColor")
    assert paper == ("rgb(246, 247, 249)" if scheme == "light" else "rgb(18, 20, 24)")
    assert len(base64.b64decode(window.screenshot())) > 10_000
    window.run("document.getElementById('theme').click()")
    assert window.run("return getComputedStyle(document.documentElement).backgroundColor") != paper


def test_lines_end_at_the_parts_that_they_join(window: Browser, stream: Path) -> None:
    window.open(stream)
    ends = window.run("""return [...document.querySelectorAll('.flow')].map(line => {
      const svg = line.ownerSVGElement.getBoundingClientRect(), size = line.getTotalLength();
      return [0, size].map((at, i) => {
        const part = parts[line.dataset.ends.split(' ')[i]];
        if (!part) return true;
        const point = line.getPointAtLength(at), box = part.element.getBoundingClientRect();
        const x = point.x + svg.left, y = point.y + svg.top;
        return x > box.left - 9 && x < box.right + 9 && y > box.top - 9 && y < box.bottom + 9;
      });
    })""")
    assert len(ends) == 12
    assert ends == [[True, True]] * 12


def test_the_keyboard_does_everything(window: Browser, stream: Path) -> None:
    window.open(stream)
    active = "return document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
    panel = "return document.getElementById('panel').innerText"
    window.press("j")
    assert window.run(active).startswith("table.weight")
    assert "aten.embedding" in window.run(panel)
    window.press("j", "j", "k")
    assert window.run(active).startswith("blocks.0.norm.weight")
    window.press("Tab")
    assert window.run(active).startswith("blocks.0.norm.bias")
    assert window.run(panel).startswith("close\nblocks.0.norm.bias")
    window.press("Escape")
    assert window.run(panel).startswith("Choose a parameter")
    window.press("/", *"1.up w")
    assert window.run("return document.getElementById('matches').textContent") == "1 of 17 tensors"
    window.press("Enter")
    assert window.run(active).startswith("blocks.1.up.weight")
    assert "hidden because" in window.run(panel)
    fold = "[...document.querySelectorAll('.fold')].find(made => made.textContent.startsWith('blocks'))"
    window.run(f"{fold}.focus()")
    window.press("Space")
    assert window.run(f"return {fold}.getAttribute('aria-expanded')") == "false"
    assert window.run("return document.querySelectorAll('#graph .param').length") == 6
    window.press("Enter", "Tab", "Tab", "Tab", "Enter")
    assert window.run("return document.querySelectorAll('#graph section').length") == 4
    assert window.errors() == []


def test_layers_are_gone_through_one_at_a_time(window: Browser, tmp_path: Path) -> None:
    window.open(written(tmp_path, deep(12)))
    shown = "return [...document.querySelectorAll('.step output')].map(made => made.textContent)"
    assert window.run(shown) == ["layers.0"]
    window.run("document.querySelectorAll('.step button')[1].click()")
    assert window.run(shown) == ["layers.1"]
    assert "layers.1.gate.weight" in window.run(
        "return document.querySelectorAll('.param')[7].getAttribute('aria-label')"
    )
    window.run("goTo(50)")
    assert window.run(shown) == ["layers.5"]
    assert window.run("return document.activeElement.dataset.row") == "50"


def test_filters_leave_what_was_asked_for(window: Browser, stream: Path) -> None:
    window.open(stream)
    window.run("[...document.querySelectorAll('.filter')].find(made => made.textContent.startsWith('gain')).click()")
    lit = window.run("return [...document.querySelectorAll('.param:not(.off)')].map(made => made.dataset.row)")
    assert lit == ["1"]
    assert window.run("return document.querySelectorAll('#found button').length") == 2
    window.run("[...document.querySelectorAll('.filter')].find(made => made.textContent.startsWith('gain')).click()")
    assert window.run("return document.querySelectorAll('.off').length") == 0
    sight = window.run("return document.getElementById('sight').innerText").split()
    assert " ".join(sight).startswith(
        "fallbacks none unused 2: spare.weight spare.bias tied 1: table.weight = head.weight"
    )


def test_seventy_billion_parameters_open_within_two_seconds(window: Browser, tmp_path: Path) -> None:
    window.open(written(tmp_path, deep(80)))
    assert window.run("return performance.getEntriesByType('navigation')[0].loadEventEnd") < 2000
    assert window.run("return document.querySelectorAll('.param').length") == 10
    assert window.run("return document.querySelector('.times').textContent") == "×80"
    window.run("document.getElementById('open').click()")
    window.settle()
    assert window.errors() == []


def test_names_that_attack_are_shown_as_they_are(window: Browser, tmp_path: Path) -> None:
    window.open(written(tmp_path, hostile()), width=900)
    for number, row_ in enumerate(hostile()):
        window.run("goTo(arguments[0])", number)
        shown = window.run("return document.querySelector('#panel h2').textContent")
        assert shown == json.loads(json.dumps(row_.name)) or not row_.name.isprintable()
    assert window.run("return document.querySelectorAll('script').length") == 2
    assert window.run("return document.querySelector('h1').textContent") == MARKUP[1]
    assert window.run("return document.images.length") == 0
    assert window.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert window.errors() == []


def test_no_network_can_be_reached_from_it(window: Browser, stream: Path) -> None:
    window.open(stream)
    assert window.run_later("fetch('http://127.0.0.1:9/').then(() => done('sent'), () => done('refused'))") == "refused"
    assert any("Content Security Policy" in message for message in window.errors())
    window.run(
        "const made = document.createElement('script'); made.textContent = 'window.ran = 1'; document.body.append(made)"
    )
    assert window.run("return window.ran") is None
    window.errors()


def test_a_notebook_shows_it(window: Browser, tmp_path: Path) -> None:
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><h1>A notebook</h1>{sample()._repr_html_()}")
    window.open(page)
    assert window.run("return document.querySelector('iframe').contentDocument") is None  # of another origin
    with window.within("iframe"):
        assert window.run("return document.querySelector('h1').textContent") == "Sample"
        assert window.run("return document.querySelectorAll('.param').length") == 9
    assert window.errors() == []


def test_a_plan_without_lines_opens(window: Browser, tmp_path: Path) -> None:
    window.open(written(tmp_path, replace(sample(), wiring=None)))
    assert window.errors() == []
    assert window.run("return document.querySelectorAll('.flow').length") == 0
    assert "this plan keeps no graph" in window.run("return document.getElementById('sight').innerText")
