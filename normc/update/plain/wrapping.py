"""Lines of at most 79 characters (PEP 8) from statements and prose of any length."""

from __future__ import annotations

import io
import keyword
import textwrap
import tokenize

WIDTH = 79
_OPEN, _CLOSE = "([{", ")]}"
# Where an expression may be broken outside all brackets, the loosest binding first; breaks come before the operator.
_BREAKS = (("if", "else", "for"), ("or", "and"), ("==", "<", ">", "<=", ">=", "in", "not"), ("+", "-"), ("*", "/", "@"))


def prose(text: str, indent: int = 0, width: int = WIDTH) -> list[str]:
    """Paragraphs, lines apart, as lines of a comment or a docstring."""
    space = " " * indent
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        filled = textwrap.wrap(
            " ".join(paragraph.split()), width, initial_indent=space, subsequent_indent=space, break_long_words=False
        )
        lines += ["", *filled] if lines else filled
    return lines


def docstring(text: str, indent: int) -> list[str]:
    """A docstring's lines."""
    safe = text.replace("\\", "\\\\").replace('"""', "'''")
    lines = prose(f'"""{safe}', indent)
    if len(lines) == 1 and len(lines[0]) + 3 <= WIDTH:
        return [f'{lines[0]}"""']
    return [*lines, " " * indent + '"""']


def fill(head: str, items: list[str], tail: str, indent: int) -> list[str]:
    """`head`, items with commas between them, `tail`: as many as fit a line, the others below, so far indented."""
    lines, line = [], head
    for place, item in enumerate(items):
        text = item + (tail if place == len(items) - 1 else ",")
        if len(line) + len(text) + 1 > WIDTH and line.strip():
            lines.append(line.rstrip())
            line = " " * indent
        line += text if line == head or not line.strip() else f" {text}"
    return [*lines, line]


def wrap(line: str) -> list[str]:
    """A logical line, by its indentation, as lines that fit: broken within brackets, one item a line at the last."""
    code = line.lstrip()
    indent = len(line) - len(code)
    if len(line) <= WIDTH:
        return [line]
    groups = _groups(code)
    if not groups:
        return _parenthesised(code, indent)
    start, end = max(groups, key=lambda span: span[1] - span[0])
    head, body, tail = code[: start + 1], code[start + 1 : end].strip().rstrip(","), code[end:]
    inner = " " * (indent + 4)
    items = _split(body, (",",))
    if len(items) > 1 and len(inner + body) > WIDTH:
        middle = [part for item in items for part in _item(inner + item.strip(), ",")]
    else:
        one = len(items) == 1 and code[start + 1 : end].rstrip().endswith(",")  # a tuple of one
        middle = _item(inner + body, "," if one else "")
    return [" " * indent + head, *middle, " " * indent + tail]


def _item(line: str, ending: str) -> list[str]:
    """An item within brackets, where an expression may be broken at its operators."""
    if len(line) + len(ending) <= WIDTH:
        return [line + ending]
    code = line.lstrip()
    indent = " " * (len(line) - len(code))
    for operators in _BREAKS:
        parts = _split(code, operators, keep=True)
        if len(parts) > 1:
            lines = [found for part in parts for found in _item(indent + part.strip(), "")]
            return [*lines[:-1], lines[-1] + ending]
    lines = wrap(line)
    return [*lines[:-1], lines[-1] + ending]


def _parenthesised(code: str, indent: int) -> list[str]:
    """A statement without brackets: its value goes into some."""
    head, sign, value = code.partition(" = ")
    if not sign:
        head, sign, value = code.partition("return ")
    if not sign or not value:
        return [" " * indent + code]
    return [" " * indent + head + sign + "(", *_item(" " * (indent + 4) + value, ""), " " * indent + ")"]


def _tokens(code: str) -> list[tuple[str, int, int]]:
    """(text, offset, depth of brackets around it) of each token. The code may be part of a statement."""
    found, depth = [], 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if not token.string.strip():
                continue
            depth -= token.type == tokenize.OP and token.string in _CLOSE
            found.append((token.string, token.start[1], depth))
            depth += token.type == tokenize.OP and token.string in _OPEN
    except tokenize.TokenError:  # what was read up to the end is all that there is
        pass
    return found


def _groups(code: str) -> list[tuple[int, int]]:
    """Offsets of the outermost pairs of brackets that have something in them."""
    spans, start = [], 0
    for text, offset, depth in _tokens(code):
        if depth == 0 and text in _OPEN:
            start = offset
        elif depth == 0 and text in _CLOSE and offset > start + 1:
            spans.append((start, offset))
    return spans


def _split(code: str, at: tuple[str, ...], keep: bool = False) -> list[str]:
    """The code in pieces, before each of the tokens `at` outside all brackets; those are dropped unless `keep`."""
    places, before = [], ""
    for text, offset, depth in _tokens(code):
        unary = not before or before in "([{,=" or before in _SIGNS or keyword.iskeyword(before)
        if depth == 0 and offset and text in at and not (text in "+-*" and unary):
            places.append((offset, len(text)))
        before = text
    pieces, start = [], 0
    for offset, length in places:
        pieces.append(code[start:offset])
        start = offset if keep else offset + length
    return [*pieces, code[start:]]


_SIGNS = ("+", "-", "*", "/", "@", "**", "==", "<", ">")
