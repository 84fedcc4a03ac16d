"""Write a plan's update as one Python file that needs torch alone."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from normc.arguments import instance
from normc.errors import NormcError
from normc.files import path_of, write_text
from normc.optimizer import Optimizer
from normc.pipeline import plain_program, update_of
from normc.plans.plan import NormPlan
from normc.recipe.by_name import recipe_of
from normc.update.plain.file import write
from normc.update.program.build import build_of
from normc.update.program.module import Loaded, Text
from normc.update.program.storage import PLAIN, storage
from normc.update.program.switches import SWITCHABLE, checked
from normc.update.runtime.door import EMBEDDED, MATRICES
from normc.version import VERSION

if TYPE_CHECKING:
    import torch

_IMPORTS = """from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shlex
import subprocess
import sys
import sysconfig
import threading
import time
import warnings
import weakref
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import Context, ContextVar
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec, spec_from_file_location
from operator import attrgetter, is_, itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, Protocol, TypeVar
from uuid import uuid4

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors
"""

_RUNTIME = (
    "# The functions above are the update of this plan. From here on: the runtime, the same in every exported file."
)
_TABLES = "# The plan's parameters, by the functions that update them."
_USAGE = """

Needs torch alone:

    from update import Optimizer

    opt = Optimizer(model.named_parameters(), lr=...)
\"\"\""""

_DOOR = '''class Optimizer(UpdateOptimizer):
    """The planned update as a torch optimizer: Optimizer(model.named_parameters(), lr=...).

    `options` are values of the groups: one number for both, or a pair (matrices, rest). Names and shapes are checked.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        lr: float | Tensor | Mapping[str, float],
        compile: bool | None = None,
        nonfinite: str = "raise",
        **options: float | tuple[float, ...],
    ) -> None:
        super().__init__(named_parameters, UPDATE, lr, compile, nonfinite, **options)

    def _rebuilt(self) -> Update:
        return UPDATE
'''


def export(
    source: Optimizer | NormPlan,
    path: str | Path,
    target: str | None = None,
    without: Sequence[str] | None = None,
    *,
    state_dtype: torch.dtype | None = None,
    state_device: str | None = None,
    stochastic_rounding: bool = False,
    plain: bool = False,
) -> Path:
    """Write `source`, an optimizer or a plan, to `path` and return it. Needs no device of the target's kind.

    `target` None is the optimizer's own, and "cpu:fp32" for a plan. The optimizer's own generated code is written as it
    runs. `without` are rewrites to leave out, by name; None leaves out those that the optimizer does, if the target has
    them. `state_dtype`, `state_device` and `stochastic_rounding` are those of normc.compile, for a plan; an optimizer
    keeps its own.

    With `plain` the file is one to read and keep (docs/export.md): a class without the runtime, a parameter at a time,
    on any device. It has no rewrites, and states in float32 alone: give neither `target` nor the other options.
    NormcError for a target without generated code, for a `source` of another type, and where the file can't be written.
    """
    if target is not None:
        instance("target", target, str, "give cpu, or cuda:sm_90")
    path_of(path)  # a wrong one is said before anything is made
    kept = storage(state_dtype, stochastic_rounding, state_device)
    if plain:
        own = source.build.storage if isinstance(source, Optimizer) else PLAIN
        if target not in (None, "cpu") or without or (own, kept) != (PLAIN, PLAIN):
            raise NormcError(
                "a plain file has no target, no rewrites, and states in float32 on the weights' device",
                "leave plain out, or leave out target, without and how states are kept",
            )
        return write_text(path, exported_plain(_plan_of(source)))
    if isinstance(source, Optimizer):
        if kept not in (PLAIN, source.build.storage):
            raise NormcError("an optimizer is exported with its own options", "make it with these, or export its plan")
        text = (
            source.text
            if target in (None, source.build.target) and without is None
            else _again(source, target or source.build.target, without).text
        )
    else:
        how = build_of(target or "cpu:fp32", () if without is None else without)
        text = update_of(_plan_of(source), replace(how, storage=kept)).text
    if not text.doc:
        raise NormcError("the reference backend generates no code", "export for cpu or cuda")
    return write_text(path, exported(text))


def _plan_of(source: object) -> NormPlan:
    """The plan to export. NormcError for what is neither an optimizer nor a plan."""
    plan = source.plan if isinstance(source, Optimizer) else source
    instance("source", plan, NormPlan, "give an optimizer of normc.compile, or a plan")
    assert isinstance(plan, NormPlan)
    return plan


def exported_plain(plan: NormPlan) -> str:
    """The whole plain file. NormcError for an update that needs the runtime."""
    return write(plain_program(plan), recipe_of(plan), VERSION)


def _again(source: Optimizer, target: str, without: Sequence[str] | None) -> Loaded:
    """The update of an optimizer's plan for another target, or with other rewrites left out."""
    backend = target.split(":")[0]
    own = [name for name in source.build.without if backend in SWITCHABLE[name].backends]
    left_out = checked(own if without is None else without, backend)
    return update_of(source.plan, replace(source.build, target=target, without=left_out))


def exported(text: Text) -> str:
    """The whole file: what the plan's update does, then the runtime in place of its import, and the plan's tables."""
    doc = text.doc.removesuffix('"""').rstrip() + _USAGE
    before = EMBEDDED[:1] if "@jit" in text.functions else ()  # what decorates the functions has to be there
    after = (*EMBEDDED[len(before) :], *(MATRICES if "newton_schulz(" in text.body else ()))
    parts = [*map(_body, before), text.functions, _RUNTIME, *map(_body, after), _TABLES, text.tables.rstrip(), _DOOR]
    return f"{doc}\n\n{_IMPORTS}\n" + "\n\n\n".join(part for part in parts if part)


def _body(name: str) -> str:
    """A file without its docstring and imports."""
    source = inspect.getsource(import_module(name))
    lines = source.splitlines()
    first, *rest = ast.parse(source).body
    for node in (first, *(node for node in rest if isinstance(node, ast.Import | ast.ImportFrom))):
        assert node.end_lineno is not None
        lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines).strip()
