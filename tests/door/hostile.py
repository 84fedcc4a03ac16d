"""What an attacker or an accident may put into plans, checkpoints and command lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

# Each would set off an alarm if any text of it were run: the builtins of this process have no `alarm` but the tests'.
NAMES = (
    "__import__('os')", "alarm()", '"', "'", '"""', "'''", "\\", "\\\"", "a\nalarm()", "a\r\nalarm()", "\x00",
    "\u2028alarm()", "{alarm()}", "{0}", "%s", "[bold]", "[/]", "#", "a" * 10_000, "\ud800", "é", "ключ", "\u202e",
    "*", "[", "[!", "?", "", " ", ".", "..", "a..b", "-1", "nan", "1e999", "=", ",", ":", "*.weight", "0.weight",
    '")\nalarm()\n("', '"""\nalarm()\n"""', "\\N{DIGIT ONE}", "\\x41", "\t", "None", "lambda: alarm()",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2**31, 2**62, 2**64, 10**400, -(10**400), 0.0, -0.0, 0.5, -1.5, 1e-320, 1e300, 1.8e308, float("nan"),
    float("inf"), float("-inf"),
)  # fmt: skip

names = st.sampled_from(NAMES) | st.text(max_size=8)
plain: st.SearchStrategy[Any] = st.none() | st.booleans() | st.sampled_from(NUMBERS) | names
data: st.SearchStrategy[Any] = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=5
)


def tensors() -> st.SearchStrategy[torch.Tensor]:
    """Of wrong shapes and dtypes, some not finite."""
    made = (
        torch.ones(()), torch.ones(3), torch.ones(8, 6), torch.zeros(0), torch.ones(2, 2, dtype=torch.int64),
        torch.ones(1, dtype=torch.bool), torch.full((8,), float("nan")), torch.ones(8, dtype=torch.complex64),
        torch.ones(3, 8, dtype=torch.float16), torch.ones(4, device="meta"), torch.tensor(3.0),
    )  # fmt: skip
    return st.sampled_from(made)


anything: st.SearchStrategy[Any] = (
    data | tensors() | st.binary(max_size=3) | st.sets(st.integers(), max_size=2) | st.tuples(plain, plain)
    | st.dictionaries(plain, plain, max_size=2) | st.sampled_from((object(), int, len, torch.float16, 1j))
)  # fmt: skip


def place(draw: Callable[..., Any], whole: Any) -> tuple[Any, Any]:
    """Draw a container somewhere inside `whole`, and a key of it."""
    inner = whole
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = draw(st.sampled_from(keys))
        deeper = inner[key]
        if not isinstance(deeper, dict | list) or not deeper or draw(st.integers(0, 5)) == 0:
            return inner, key
        inner = deeper


def mutate(draw: Callable[..., Any], whole: Any, values: st.SearchStrategy[Any]) -> None:
    """Change, drop or add one thing somewhere inside nested lists and dicts, in place."""
    inner, key = place(draw, whole)
    how = draw(st.sampled_from(("put", "put", "put", "drop", "add", "copy")))
    if how == "drop":
        del inner[key]
    elif how == "add" and isinstance(inner, dict):
        inner[draw(values.filter(_hashable))] = draw(values)
    elif how == "add":
        inner.append(draw(values))
    elif how == "copy":
        other, from_key = place(draw, whole)
        inner[key] = other[from_key] if not isinstance(other[from_key], dict | list) else draw(values)
    else:
        inner[key] = draw(values)


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
