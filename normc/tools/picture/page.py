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


@pictures.register("html")
def page(plan: NormPlan) -> str:
    """The page. All texts of the model are in one block of JSON, without a `<`; its script puts them in as text.

    A browser runs no script and takes no style but those with these hashes, whatever a name of the model holds.
    """
    style, script = _source("page.css"), _source("page.js")
    return _source("page.html").format(
        title=escape(f"plan of {shown(plan.model)}"), style=style, style_hash=_hash(style), script=script,
        script_hash=_hash(script), plan=_inert(content(plan)),
    )  # fmt: skip


@pictures.register("notebook")
def notebook(plan: NormPlan) -> str:
    """The page in a frame that reaches nothing of the notebook around it."""
    title = escape(f"plan of {shown(plan.model)}")
    look = "width:100%;height:640px;border:1px solid #8886;border-radius:8px"
    return f'<iframe sandbox="allow-scripts" title="{title}" style="{look}" srcdoc="{escape(page(plan))}"></iframe>'


def _inert(facts: object) -> str:
    text = json.dumps(facts, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
