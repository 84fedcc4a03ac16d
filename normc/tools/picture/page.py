"""A plan as one page of HTML that asks nothing of a network; and the same page within a notebook."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from html import escape
from importlib.resources import files

from normc.plans.plan import NormPlan, pictures
from normc.tools.picture.content import content
from normc.tools.report.words import shown

# The only script and style that a browser may use are those with these hashes, whatever a name of the model holds.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src '{script_hash}'; \
style-src '{style_hash}'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="normc">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header class="top">
<div class="title"><h1 id="model"></h1><span id="recipe" class="soft"></span></div>
<ul class="sums" id="sums"></ul>
<ul class="sight" id="sight"></ul>
</header>
<div class="tools" role="search">
<input type="search" id="search" placeholder="search parameters ( / )" aria-label="search parameters" autocomplete="off">
<span id="matches" class="soft number" role="status"></span>
<button type="button" class="plain" id="open">open all</button>
<button type="button" class="plain" id="shut">close all</button>
<button type="button" class="plain" id="theme">dark</button>
<ul class="found" id="found" hidden></ul>
</div>
<div class="filters" id="filters" role="group" aria-label="filters"></div>
<main>
<div id="graph" role="group" aria-label="the model's modules and parameters"></div>
<aside id="panel" aria-live="polite" aria-label="the chosen parameter"></aside>
</main>
<div id="hint" hidden></div>
<noscript>This page draws the plan with a script of its own, which is switched off here.</noscript>
<script type="application/json" id="plan">{plan}</script>
<script>{script}</script>
</body>
</html>
"""


@pictures.register("html")
def page(plan: NormPlan) -> str:
    """The page. All texts of the model are in one block of JSON, without a `<`; its script puts them in as text."""
    style, script = _source("page.css"), _source("page.js")
    return _PAGE.format(
        title=escape(f"plan of {shown(plan.model)}"), style=style, style_hash=_hash(style), script=script,
        script_hash=_hash(script), plan=_inert(content(plan)),
    )  # fmt: skip


@pictures.register("notebook")
def notebook(plan: NormPlan) -> str:
    """The page in a frame that reaches nothing of the notebook around it."""
    return (
        f'<iframe sandbox="allow-scripts" title="{escape(f"plan of {shown(plan.model)}")}" srcdoc="{escape(page(plan))}" '
        'style="width:100%;height:640px;border:1px solid #8886;border-radius:8px"></iframe>'
    )


def _inert(facts: object) -> str:
    text = json.dumps(facts, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
