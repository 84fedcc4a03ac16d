"""Files at the paths that users give: read, written, or one error that says which and why."""

from __future__ import annotations

import os
from pathlib import Path

from normc.arguments import shown
from normc.errors import NormcError


def path_of(path: object) -> Path:
    """Return `path` as a Path. NormcError unless it is text or a path, and names something."""
    if not isinstance(path, str | os.PathLike):
        raise NormcError(f"the path is {shown(path)}", "give the path of a file, as text or a pathlib.Path")
    found = os.fspath(path)
    if not isinstance(found, str) or not Path(found).name:
        raise NormcError(f"the path {shown(found)} names no file", "give the path of a file")
    return Path(found)


def read_bytes(path: object, fix: str) -> bytes:
    """Return what the file at `path` holds. NormcError, with `fix`, where it can't be read."""
    file = path_of(path)
    try:
        return file.read_bytes()
    except (OSError, ValueError) as problem:  # ValueError: a name that no file can have
        raise NormcError(f"{shown(str(file))} can't be read: {reason(problem)}", fix) from problem


def write_text(path: object, content: str) -> Path:
    """Write `content` to `path` in UTF-8, and return it. NormcError where it can't be written."""
    file = path_of(path)
    try:
        file.write_text(content, encoding="utf-8")
    except (OSError, ValueError) as problem:
        raise unwritable(file, problem) from problem
    return file


def unwritable(file: Path, problem: OSError | ValueError) -> NormcError:
    """Return the error for a file that couldn't be written."""
    return NormcError(f"{shown(str(file))} can't be written: {reason(problem)}", "give a file in a folder that exists")


def reason(problem: OSError | ValueError) -> str:
    """Return what the system said, without the path."""
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
