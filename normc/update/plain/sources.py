"""The update ops of a plain file: called, or written where they are called if that takes one line; then defined."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Mapping

from normc.update.ops import kronecker
from normc.update.plain.simplify import ALONE, Op, alone, body, function, without_casts
from normc.update.plain.wrapping import WIDTH, docstring, wrap
from normc.update.program.source import needs


class Library:
    """The ops of a file. `given` are the parameters that each is called with, wherever it is.

    `never` are tests of the ops that no value of the file passes.
    """

    def __init__(self, never: Iterable[str]) -> None:
        self.never = tuple(never)
        self.given: dict[Op, set[str]] = {}

    def call(self, op: Op, given: Mapping[str, str], head: str) -> str:
        """`head` and what it is given: the op's own expression if that fits a line, else a call.

        `given` are arguments by parameter, as source.
        """
        expression = _expression(op)
        if expression is not None:
            whole = {**_defaults(op), **given}
            values = {name: ast.parse(text, mode="eval").body for name, text in whole.items()}
            value = alone(expression, op, values)
            line = head + _quoted(ast.unparse(value))
            if len(line) <= WIDTH:
                self._note(value, op)
                return _labelled(line, op)
        self._add(op, set(given))
        leading = _leading(op, given)
        args = [given[name] for name in leading]
        args += [f"{name}={text}" for name, text in given.items() if name not in leading]
        return f"{head}{op.__name__}({', '.join(args)})"

    def sources(self) -> list[str]:
        """Every op's definition, in lines that fit; what an op calls comes before it."""
        order: dict[Op, None] = {}

        def visit(op: Op) -> None:
            for other, _ in _calls(self._tree(op), op):
                if other is not op and other not in order:
                    visit(other)
            order.setdefault(op)

        for op in sorted(self.given, key=lambda op: (op.__module__, op.__code__.co_firstlineno)):
            visit(op)
        return [self._definition(op) for op in order]

    def _add(self, op: Op, given: set[str]) -> None:
        """Define an op in the file, with what it calls, for calls with these parameters too."""
        known = self.given.get(op)
        if known is None or not given <= known:
            assert known is not None or op.__name__ not in {other.__name__ for other in self.given}, op
            self.given[op] = given | (known or set())
            self._note(self._tree(op), op)

    def _note(self, tree: ast.AST, op: Op) -> None:
        for other, given in _calls(tree, op):
            self._add(other, given)

    def _tree(self, op: Op) -> ast.FunctionDef:
        """An op for one parameter, without parameters that no call gives."""
        tree = function(op)
        tree.decorator_list = []
        spared = {
            name: ast.parse(text, mode="eval").body
            for name, text in _defaults(op).items()
            if name not in self.given[op]
        }
        tree.body = body(op)[1]
        defaults = dict(zip([own.arg for own in tree.args.args][::-1], tree.args.defaults[::-1], strict=False))
        tree.args.args = [own for own in tree.args.args if own.arg not in spared]
        tree.args.defaults = [defaults[own.arg] for own in tree.args.args if own.arg in defaults]
        tree = ast.fix_missing_locations(alone(tree, op, spared, self.never))
        return without_casts(tree, op)

    def _definition(self, op: Op) -> str:
        """An op's source in lines that fit. Types are left out where they take more than the line."""
        tree = self._tree(op)
        told = re.sub(r"\s*Shape (and dtype )?of \w+\b[^.]*\.", "", body(op)[0].split("\n\n")[0])
        if tree.args.defaults or len(ast.unparse(tree).splitlines()[0]) > WIDTH:
            tree.returns = None
            for own in tree.args.args:
                own.annotation = None
        tree.body = [part for statement in tree.body for part in _parted(statement)]
        head, *rest = _quoted(ast.unparse(ast.fix_missing_locations(tree))).splitlines()
        return "\n".join([*wrap(head), *docstring(told, 4), *(part for line in rest for part in wrap(_bare(line)))])


def reachable(ops: Iterable[Op]) -> set[str]:
    """Names of ops, and of all that they may call."""
    found: set[Op] = set()
    waiting = list(ops)
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += _reached(op)
    return {op.__name__ for op in found}


def _reached(op: Op) -> list[Op]:
    """What an op calls, and what its forms for one parameter call."""
    return [*needs(op), *([kronecker.due] if {kronecker.choose, kronecker.renewed} & {op, *needs(op)} else [])]


def _calls(tree: ast.AST, op: Op) -> list[tuple[Op, set[str]]]:
    """The functions of ours that code of an op calls, each with the parameters that it gives."""
    known = {other.__name__: other for other in _reached(op)} | {op.__name__: op}
    found = []
    for node in ast.walk(tree):
        other = known.get(node.func.id) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        if isinstance(node, ast.Call) and other is not None and other not in ALONE:
            names = list(inspect.signature(other).parameters)[: len(node.args)]
            found.append((other, {*names, *(word.arg for word in node.keywords if word.arg)}))
    return found


def _expression(op: Op) -> ast.expr | None:
    """What an op returns, if that is all it does."""
    if op in ALONE:
        return ast.parse(ALONE[op], mode="eval").body
    (first, *more) = body(op)[1]
    return first.value if isinstance(first, ast.Return) and not more else None


def _defaults(op: Op) -> dict[str, str]:
    parameters = inspect.signature(op).parameters.values()
    return {own.name: repr(own.default) for own in parameters if own.default is not own.empty}


def _leading(op: Op, given: Mapping[str, str]) -> list[str]:
    """The parameters, from the first on, that are given what is no literal: those need no name."""
    names: list[str] = []
    for name in inspect.signature(op).parameters:
        if name not in given or re.match(r"[^A-Za-z_\[]|(True|False|None)$", given[name]):
            break
        names.append(name)
    return names


def _parted(statement: ast.stmt) -> list[ast.stmt]:
    """A return of one value or another, as an `if` where it takes more than a line."""
    value = statement.value if isinstance(statement, ast.Return) else None
    if not isinstance(value, ast.IfExp) or len(ast.unparse(statement)) + 4 <= WIDTH:
        return [statement]
    return [ast.If(value.test, _parted(ast.Return(value.body)), []), *_parted(ast.Return(value.orelse))]


def _bare(line: str) -> str:
    """A statement without the brackets that `ast.unparse` puts around a value that is a tuple."""
    found = re.fullmatch(r"( *(?:return|[\w, ]+ =) )\((.*)\)", line)
    if found is None:
        return line
    (statement,) = ast.parse(line.strip()).body
    value = statement.value if isinstance(statement, ast.Return | ast.Assign) else None
    return found[1] + found[2] if isinstance(value, ast.Tuple) and len(value.elts) > 1 else line


def _quoted(code: str) -> str:
    """Code of `ast.unparse` with double quotes, where it has neither in a string."""
    return re.sub(r"'([^'\"\\\n]*)'", r'"\1"', code) if '"' not in code else code


def _labelled(line: str, op: Op) -> str:
    """A line with what its op is called, in the words that its docstring begins with, if they fit."""
    told = body(op)[0].split(".")[0]
    start, colon, _ = told.partition(":")
    if not colon or len(start) > 40:
        words = start.split()
        end = next(
            (place for place, word in enumerate(words) if not re.fullmatch(r"[A-Za-z'-]{2,},?|[Aa]", word)), None
        )
        start = " ".join(words[:end])
    whole = f"{line}  # {start[:1].lower()}{start[1:].rstrip(',')}"
    return whole if len(start.split()) > 1 and len(whole) <= WIDTH else line
