"""What a command line gives as text: saved plans, overrides, sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normc.errors import NormcError
from normc.files import read_bytes

if TYPE_CHECKING:
    from normc.plans.plan import NormPlan


def load_plan(path: str) -> NormPlan:
    """The plan in a file. NormcError if it can't be read, or isn't one."""
    from normc.plans.plan import NormPlan

    fix = "give a file that normc plan --json wrote"
    try:
        text = read_bytes(path, fix).decode()
    except UnicodeDecodeError as problem:
        raise NormcError(f"{path} is no text: {problem}", fix) from None
    try:
        return NormPlan.from_json(text)
    except NormcError as problem:
        raise NormcError(f"{path}: {problem.problem}", problem.fix) from None


def read_override(text: str) -> tuple[str, dict[str, Any]]:
    """`GLOB:norm=sign,scale=0.1` as the glob and what to change. NormcError for anything else."""
    from normc.plans.override import FIELDS

    pattern, colon, changes = text.rpartition(":")
    found: dict[str, Any] = {}
    for change in changes.split(","):
        key, equals, value = change.partition("=")
        if not (colon and pattern and equals) or key not in FIELDS or key in found:
            raise NormcError(
                f"{text!r} is no override", f"write 'GLOB:norm=sign,scale=0.1' ({', '.join(FIELDS)}, each once)"
            )
        try:
            found[key] = value if key == "norm" else float(value)
        except ValueError:
            raise NormcError(f"the {key} {value!r} in {text!r} is no number", f"write {key}=0.1") from None
    return pattern, found


def read_size(text: str) -> tuple[str, int]:
    """`d_model=4096` as the two. NormcError for anything else."""
    name, equals, value = text.partition("=")
    if not (name and equals and value.isascii() and value.isdigit()):
        raise NormcError(f"{text!r} is no size", "write d_model=4096")
    return name, int(value)
