"""Code of update ops for a stack of one parameter, in the dtype that a plain file computes in.

Ops take stacks [N, *parameter]. Where N is 1, a choice between tensors for each of the stack's parameters is an `if`,
what a parameter has one number of is that number, no tensor is empty (the plan's update leaves out those that are), and
none is narrower than float32.
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from normc.update.ops import arithmetic, kronecker, late

Op = Callable[..., Any]

# What ops come to for a stack of one parameter.
ALONE: Mapping[Op, str] = {
    arithmetic.rowwise: "number",
    late.initial: "new if step == 1 else old",
    kronecker.choose: "new if due(step, every) else old",
    kronecker.renewed: "new if step == 1 or due(step, every) else old",
}
# Methods and functions whose result has the dtype of what they are called on, or of their first argument.
_KEEPING = ("abs", "amax", "baddbmm", "mul", "permute", "reshape", "sqrt", "square", "sum", "where")


def form_of(node: ast.Call, op: Op) -> Op | None:
    """What of `ALONE` an op's code calls."""
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    return next((form for form in ALONE if form.__name__ == name and namespace(op).get(name) is form), None)


def namespace(op: Op) -> Mapping[str, Any]:
    """The module's names that an op's code sees."""
    assert isinstance(op, types.FunctionType)
    return op.__globals__


@lru_cache(maxsize=256)
def source(op: Op) -> str:
    """An op's source without decorators."""
    text = inspect.getsource(op)
    return text[text.index("def ") :]


def function(op: Op) -> ast.FunctionDef:
    """An op's tree."""
    (tree,) = ast.parse(source(op)).body
    assert isinstance(tree, ast.FunctionDef)
    return tree


def body(op: Op) -> tuple[str, list[ast.stmt]]:
    """An op's docstring and its statements."""
    tree = function(op)
    told = ast.get_docstring(tree)
    return told or "", tree.body[1:] if told is not None else tree.body


def alone(tree: Any, op: Op, values: Mapping[str, ast.expr], never: tuple[str, ...] = ()) -> Any:
    """A tree of an op's code as it is for one parameter, with expressions in place of some names.

    `never` are tests that don't pass.
    """
    return _Alone(op, values, never).visit(tree)


class _Alone(ast.NodeTransformer):
    def __init__(self, op: Op, values: Mapping[str, ast.expr], never: tuple[str, ...]) -> None:
        self.op, self.values, self.never = op, values, never

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        form = form_of(node, self.op)
        if form is not None:
            values = dict(zip(inspect.signature(form).parameters, node.args, strict=False))
            values |= {word.arg: word.value for word in node.keywords if word.arg}
            found: ast.expr = alone(ast.parse(ALONE[form], mode="eval").body, form, values)
            return found
        text = ast.unparse(node)
        if text.startswith("torch.promote_types(") and text.endswith(".dtype, torch.float32)"):
            return node.args[0]
        if isinstance(node.func, ast.Attribute) and node.func.attr == "reshape" and len(node.args) == 1:
            counts = ast.unparse(node.func.value)  # one number for each parameter of the stack
            if ast.unparse(node.args[0]).startswith(f"{counts}.shape + (1,) * "):
                return node.func.value
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Mult | ast.Div) and _is_one(node.right):
            return node.left
        return node.right if isinstance(node.op, ast.Mult) and _is_one(node.left) else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        first, *rest = node.values
        return rest[0] if isinstance(node.op, ast.Or) and _truth(first) is False and len(rest) == 1 else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        truth = _truth(node.test)
        return node if truth is None else node.body if truth else node.orelse

    def visit_If(self, node: ast.If) -> Any:
        empty = isinstance(node.test, ast.Compare) and ast.unparse(node.test).endswith(".numel() == 0")
        if empty and isinstance(node.body[0], ast.Return):
            return [self.visit(inner) for inner in node.orelse]
        self.generic_visit(node)
        truth = False if ast.unparse(node.test) in self.never else _truth(node.test)
        return node if truth is None else node.body if truth else node.orelse

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        return node if node.value is None else ast.Assign([node.target], node.value, lineno=node.lineno)

    def visit_Assert(self, node: ast.Assert) -> ast.stmt | None:
        return None if ast.unparse(node.test).startswith("isinstance(") else node


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and node.value == 1.0


def _truth(node: ast.expr) -> bool | None:
    """Whether a test passes, if that is known."""
    if isinstance(node, ast.Tuple):
        return bool(node.elts)
    return bool(node.value) if isinstance(node, ast.Constant) else None


def without_casts(tree: ast.FunctionDef, op: Op) -> ast.FunctionDef:
    """A function without casts to the dtype that a value has, and without second names of values."""
    if not any(word in ast.unparse(tree) for word in ("float64", "double", "finfo")):
        tree = _Casts(tree, op).visit(tree)
    return _renamed(tree)


class _Casts(ast.NodeTransformer):
    """`origin` is the argument that a value has the dtype of: all others are of that or a narrower one."""

    def __init__(self, tree: ast.FunctionDef, op: Op) -> None:
        self.op = op
        self.known: dict[str, str | None] = {argument.arg: argument.arg for argument in tree.args.args}
        for node in (*ast.walk(tree), *ast.walk(tree)):
            for target in node.targets if isinstance(node, ast.Assign) else []:
                if isinstance(target, ast.Name):
                    found = self.origin(node.value)  # type: ignore[attr-defined]  # of the Assign above
                    self.known[target.id] = found if self.known.get(target.id, found) == found else None
                else:
                    self.known |= {name.id: None for name in ast.walk(target) if isinstance(name, ast.Name)}

    def origin(self, node: ast.expr) -> str | None:
        """Of an expression."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.BinOp):
            return self.origin(node.left) or self.origin(node.right)
        if isinstance(node, ast.IfExp):
            return self.origin(node.body) if self.origin(node.body) == self.origin(node.orelse) else None
        if isinstance(node, ast.Attribute):
            return self.origin(node.value) if node.attr == "mT" else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            if self._is_cast(node):
                return self.origin(node.args[0].value)  # type: ignore[attr-defined]  # x.dtype
            if node.func.attr not in _KEEPING:
                return None
            values = node.args[1:] if node.func.attr == "where" else node.args
            return self.origin(values[0] if of_torch else node.func.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            other = namespace(self.op).get(node.func.id)
            told = inspect.getdoc(other) or ""
            return self.origin(node.args[0]) if node.args and "dtype of x" in told else None
        return None

    @staticmethod
    def _is_cast(node: ast.Call) -> bool:
        """Whether it is `value.to(x.dtype)`."""
        cast = isinstance(node.func, ast.Attribute) and node.func.attr == "to" and len(node.args) == 1
        return cast and isinstance(node.args[0], ast.Attribute) and node.args[0].attr == "dtype"

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if self._is_cast(node):
            assert isinstance(node.func, ast.Attribute)
            assert isinstance(node.args[0], ast.Attribute)
            origin = self.origin(node.func.value)
            if origin is not None and origin == self.origin(node.args[0].value):
                return node.func.value
        return node


def _renamed(tree: ast.FunctionDef) -> ast.FunctionDef:
    """Without statements `x = y` where neither gets another value."""
    stored = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    fixed = {argument.arg for argument in tree.args.args if argument.arg not in stored}
    for statement in list(tree.body):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Name):
            continue
        (target,), value = statement.targets, statement.value
        if isinstance(target, ast.Name) and stored.count(target.id) == 1 and value.id in fixed:
            tree.body.remove(statement)
            _Named({target.id: value}).visit(tree)
    return tree


class _Named(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node)
