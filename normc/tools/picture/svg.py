"""A plan as a still picture for papers: what the page shows as it opens, of repeated layers one, on white."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from normc.plans.plan import NormPlan, pictures
from normc.tools.picture.colors import kind, palette
from normc.tools.picture.content import widths
from normc.tools.picture.glyphs import Glyph
from normc.tools.picture.lines import drawn
from normc.tools.picture.parts import ENTRY
from normc.tools.picture.placing import HEAD, LINE, NAME, PORT, TEXT, Label, Placed, cut, heading, placed, wide
from normc.tools.picture.routes import way
from normc.tools.report import words

_INK, _SOFT, _EDGE, _BOX, _STREAM, _LINE = "#16181d", "#565c66", "#c9cdd5", "#fbfbfd", "#3d4451", "#8b919c"
_MARGIN = 12.0


@pictures.register("svg")
def svg(plan: NormPlan) -> str:
    """The picture. Every text of the model is escaped."""
    whole = drawn(plan)
    found = placed(whole)
    thick = widths(whole.walk())
    colors = {name: color.light for name, color in palette(plan.rows).items()}
    wide_, tall = found.width + 2 * _MARGIN + 6, found.height + 2 * _MARGIN + 24
    title = _text(f"plan of {plan.model}, recipe {plan.recipe}")
    body = "\n".join((*_box(found, colors, thick), *_legend(colors, found.height + 20)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide_:.0f}" height="{tall:.0f}" '
        f'viewBox="{-_MARGIN} {-_MARGIN} {wide_:.0f} {tall:.0f}" font-family="Helvetica, Arial, sans-serif" '
        f'font-size="{TEXT}" fill="{_INK}" role="img">\n<title>{title}</title>\n'
        f'<rect x="{-_MARGIN}" y="{-_MARGIN}" width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _text(text: str) -> str:
    return escape(words.shown(text))


def _said(x: float, y: float, text: str, facts: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{facts and " " + facts}>{_text(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, facts: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {facts}/>'


def _legend(colors: dict[str, str], y: float) -> Iterator[str]:
    x = 0.0
    for name, color in colors.items():
        yield _rect(x, y - 9, 10, 10, f'rx="2" fill="{color}"')
        yield _said(x + 15, y, name)
        x += 15 + wide(name, TEXT) + 18


def _box(box: Placed, colors: dict[str, str], thick: dict[int, float]) -> Iterator[str]:
    """A box, its lines, and what stands in it on top of them."""
    x, y, width, height = box.x, box.y, box.width, box.height
    for by in (6, 3, 0) if box.part.alike else (0,):
        yield _rect(x + by, y + by, width, height, f'rx="9" fill="{_BOX}" stroke="{_EDGE}"')
    stream = box.streams(ENTRY)
    if stream:
        yield f'<path d="M{x + PORT:.1f} {y:.1f}v{HEAD}" stroke="{_STREAM}" stroke-width="4"/>'
    name, facts = heading(box.part)
    bold = f'<tspan font-weight="bold" font-size="{NAME}">{_text(name)}</tspan>'
    soft = f'<tspan dx="9" fill="{_SOFT}">{_text(facts)}</tspan>'
    yield f'<text x="{x + (PORT + 14 if stream else 12):.1f}" y="{y + 18:.1f}">{bold}{soft}</text>'
    if box.floor < y + height - 1:
        yield f'<path d="M{x + 12:.1f} {box.floor:.1f}h{width - 24:.1f}" stroke="{_EDGE}" stroke-dasharray="4 3"/>'
        yield _said(x + 12, box.floor + 13, "not on the way from the inputs to the output:", f'fill="{_SOFT}"')
    for line in box.shown.lines:
        path, tip = way(box, line)
        color = _STREAM if line.stream else _LINE
        dashes = ' stroke-dasharray="5 4"' if line.back else ""
        yield f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{thick[line.entries]}"{dashes}/>'
        if tip:
            yield f'<path d="{tip}" fill="{color}"/>'
    for inner in box.inside.values():
        if inner.part.kind == "box":
            yield from _box(inner, colors, thick)
        elif inner.part.kind == "card":
            yield from _card(inner, colors)
        else:
            yield from _join(inner)


def _join(join: Placed) -> Iterator[str]:
    x, y, radius = join.x + join.width / 2, join.y + join.height / 2, join.width / 2
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#fff" stroke="{_STREAM}" stroke-width="2"/>'
    yield f'<path d="M{x - 5:.1f} {y:.1f}h10M{x:.1f} {y - 5:.1f}v10" stroke="{_INK}" stroke-width="2"/>'


def _card(card: Placed, colors: dict[str, str]) -> Iterator[str]:
    yield _rect(card.x, card.y, card.width, card.height, f'rx="7" fill="#fff" stroke="{_EDGE}"')
    top = card.y + 4
    if card.part.label:
        yield _said(
            card.x + 9, card.y + 15, cut(words.shown(card.part.label)), f'font-weight="bold" font-size="{NAME}"'
        )
        top += 16
    for row in card.lines():
        x = card.x + 9
        for label in row:
            yield from _label(label, x, top, colors[kind(label.place.row)])
            x += label.width + 6
        top += max(label.height for label in row)


def _label(label: Label, x: float, y: float, color: str) -> Iterator[str]:
    tall = label.height - 6
    lift = 3 * (label.glyph.sheets - 1)
    yield from _matrix(label, x, y + (tall - label.glyph.height - lift) / 2 + lift, color)
    at = y + (tall - LINE * len(label.lines)) / 2 + 10
    for number, line in enumerate(label.lines):
        look = ' font-weight="bold"' if label.named and not number else ""
        place = x + label.glyph.width + lift + 8
        yield _said(place, at + LINE * number, line, look.strip())


def _matrix(label: Label, x: float, y: float, color: str) -> Iterator[str]:
    picture = label.glyph
    for sheet in range(picture.sheets - 1, 0, -1):
        yield _rect(x + 3 * sheet, y - 3 * sheet, picture.width, picture.height,
                    f'rx="1.5" fill="{color}" fill-opacity=".4" stroke="#fff"')  # fmt: skip
    still = label.place.row.role == "unused"
    look = f'fill="none" stroke="{color}" stroke-dasharray="3 2"' if still else f'fill="{color}"'
    yield _rect(x, y, picture.width, picture.height, f'rx="1.5" {look}')
    yield from _stripes(picture, x, y)
    if picture.window and min(picture.width, picture.height) > 16:
        right, top = x + picture.width - 11, y + 3
        path = f"M{right:.1f} {top:.1f}h8v8h-8zM{right + 4:.1f} {top:.1f}v8M{right:.1f} {top + 4:.1f}h8"
        yield f'<path d="{path}" fill="none" stroke="#fff"/>'


def _stripes(picture: Glyph, x: float, y: float) -> Iterator[str]:
    across = picture.across
    for stripe in picture.stripes:
        left, top = (x + stripe.start, y) if across else (x, y + stripe.start)
        width, height = (stripe.length, picture.height) if across else (picture.width, stripe.length)
        if stripe.shade:
            yield _rect(left, top, width, height, f'fill="#000" fill-opacity="{(0, 0.2, 0.38)[stripe.shade]}"')
        if stripe.start > 0 and stripe.length > 2:
            side = f"v{height:.1f}" if across else f"h{width:.1f}"
            yield f'<path d="M{left:.1f} {top:.1f}{side}" stroke="#fff"/>'
        if stripe.label and width > max(9, 6 * len(stripe.label)):
            look = 'text-anchor="middle" font-size="9" font-weight="bold" fill="#fff"'
            yield _said(left + width / 2, top + height / 2 + 3, stripe.label, look)
