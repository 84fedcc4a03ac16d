"""What a checkpoint says, by parameters' names, and whether two plans agree on a parameter. Needs torch alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from normc.update.runtime.codes import CODES, shape_of
from normc.update.runtime.run import Update

Failing = Callable[[str, str], NoReturn]

# Relative differences below this are rounding: of bf16, in a model's constants.
ROUNDING = 2.0**-8
# Of a state_dict, beside what torch's has: of each parameter, what the plan says of it; the recipe's options that
# differ from their default; of each parameter, which states it has.
ROWS, OPTIONS, HELD = "rows", "options", "held"


@dataclass(frozen=True)
class Saved:
    """A checkpoint. Keys are the names that it has for parameters; None is what it doesn't say.

    `groups` are the values of its parameter groups, and whose they are; `plans` the hashes that they hold.
    """

    groups: Sequence[tuple[Mapping[str, Any], tuple[str, ...]]]
    states: Mapping[str, Mapping[str, Any]]
    plans: frozenset[str] | None
    rows: Mapping[str, str] | None
    options: Mapping[str, Any] | None
    held: Mapping[str, Sequence[str]] | None

    @property
    def about(self) -> dict[str, Any]:
        """What a state_dict says of its plan beside its groups."""
        return {key: value for key, value in ((ROWS, self.rows), (OPTIONS, self.options)) if value is not None}


def read_saved(given: object, fail: Failing) -> Saved:
    """The checkpoint that a state_dict is; `fail` is told what is none."""
    if not isinstance(given, Mapping):
        fail(f"the checkpoint is a {type(given).__name__}", "pass the dict that state_dict() returned")
    if any(isinstance(key, str) and key.startswith("param_groups.") for key in given):
        fix = "load it by set_optimizer_state_dict with StateDictOptions(flatten_optimizer_state_dict=True)"
        fail("the checkpoint was flattened by torch.distributed.checkpoint", fix)
    for key, kind in (("param_groups", list), ("state", Mapping)):
        if not isinstance(given.get(key), kind):
            fail(f"the checkpoint has no {key!r}", "pass the dict that state_dict() returned, not one around it")
    _check_form(given, fail)
    groups: list[tuple[Mapping[str, Any], tuple[str, ...]]] = []
    names: dict[Any, str] = {}
    for group in given["param_groups"]:
        keys = list(group["params"])
        # torch.distributed.checkpoint calls parameters by their names, and may leave groups without anything else.
        own = keys if keys and all(isinstance(key, str) for key in keys) else list(group.get("param_names", ()))
        if len(own) != len(keys):
            what = f"names {len(own)} of {len(keys)} parameters" if own else "has no parameter names"
            fail(f"the checkpoint {what}", "load one that an optimizer of normc wrote")
        groups.append(({k: v for k, v in group.items() if k not in ("params", "param_names")}, tuple(own)))
        names.update(zip(keys, own, strict=True))
    told = [values for values, _ in groups if values]
    plans = frozenset(values["plan"] for values in told if "plan" in values) if told else frozenset({""})
    states = {names[key]: state for key, state in given["state"].items() if key in names}
    return Saved(
        groups, states, plans or None, given.get(ROWS), given.get(OPTIONS), given.get(HELD)
    )  # fmt: skip


def _check_form(given: Mapping[str, Any], fail: Failing) -> None:
    """Fails where a part isn't of the form that a state_dict has: the file may be damaged, or made to harm."""
    fix = "load one that is whole"
    for place, group in enumerate(given["param_groups"]):
        where = f"group {place} of the checkpoint"
        if not isinstance(group, Mapping) or not _all(str, group) or not isinstance(group.get("params"), list | tuple):
            fail(f"{where} is no mapping of names with a list of 'params'", fix)
        if not _all((int, str), group["params"]):
            fail(f"{where} holds something else than numbers or names in 'params'", fix)
        if not isinstance(group.get("param_names", ()), list | tuple) or not _all(str, group.get("param_names", ())):
            fail(f"{where} holds something else than a list of names in 'param_names'", fix)
        if not isinstance(group.get("plan", ""), str):
            fail(f"{where} holds a {type(group['plan']).__name__} as its plan's hash", fix)
    for state in given["state"].values():
        if not isinstance(state, Mapping) or not _all(str, state):
            fail("the checkpoint holds a state that is no mapping of names", fix)
    for key, kinds in ((ROWS, (str,)), (OPTIONS, (str, int, float, type(None))), (HELD, (list, tuple))):
        part = {} if given.get(key) is None else given[key]
        right = isinstance(part, Mapping) and _all(str, part) and _all(kinds, part.values())
        if not right or (key == HELD and not all(_all(str, own) for own in part.values())):
            fail(f"{key!r} of the checkpoint isn't what state_dict() puts there", fix)


def _all(kinds: type | tuple[type, ...], values: Iterable[object]) -> bool:
    return all(isinstance(value, kinds) for value in values)


def alike(old: str, new: str) -> bool:
    """Whether two summaries of a row tell of one update: fields that both have agree, numbers to what rounding is."""
    for here, there in zip(old.split(", "), new.split(", "), strict=False):
        mine, theirs = here.split(" "), there.split(" ")
        if len(mine) != len(theirs) or not all(map(_same, mine, theirs)):
            return False
    return True


def _shown(old: str, new: str) -> str:
    """Both summaries, as far as the last field that differs."""
    mine, theirs = old.split(", "), new.split(", ")
    differing = [place for place, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]]
    if "absent" in (old, new) or not differing:
        return f"{old} -> {new}"
    return f"{', '.join(mine[: differing[-1] + 1])} -> {', '.join(theirs[: differing[-1] + 1])}"


def _same(here: str, there: str) -> bool:
    if here == there:
        return True
    try:
        return math.isclose(float(here), float(there), rel_tol=ROUNDING)
    except ValueError:
        return False


def _unused(what: str) -> bool:
    return what.split(",")[0] == "unused"


def differences(saved: Saved, update: Update, hashes: Callable[[], set[str]]) -> dict[str, str]:
    """Where a checkpoint's plan isn't the update's: of parameters and options, both values; of what it doesn't say,
    hashes, by the name "". `hashes` are those by which the plan is known as well.
    """
    plans = (saved.plans or frozenset()) - {""}
    if not plans or plans == {update.plan}:
        return {}
    if saved.rows is None:
        return {} if plans <= hashes() else {"": f"plan {', '.join(sorted(plans))} -> {update.plan}"}
    old = {update.name_of(name) or name: what for name, what in saved.rows.items()}
    new = {name: entry.what for name, entry in update.entries.items()}
    found = {}
    for name in dict.fromkeys((*old, *new)):
        here, there = old.get(name, "absent"), new.get(name, "absent")
        # Either plan may know nothing of a parameter: it was made, or made again, with another example.
        if not (_unused(here) or _unused(there) or alike(here, there)):
            found[name] = _shown(here, there)
    if saved.options is not None:
        for name in dict.fromkeys((*saved.options, *update.options)):
            here, there = saved.options.get(name, "its default"), update.options.get(name, "its default")
            if here != there:
                found[f"option {name}"] = f"{here} -> {there}"
    return found


def misfit(name: str, value: object, kind: str, shape: Sequence[int]) -> str:
    """Why a state can't be what an update keeps of a parameter of this shape; empty if it can."""
    if kind == "count" and isinstance(value, int | float) and not isinstance(value, bool):
        return ""
    wanted = shape_of(kind, shape)
    if not isinstance(value, Tensor):
        return f"{name!r} is a {type(value).__name__}, not a tensor"
    found = tuple(value.shape)
    if found != wanted and not (kind == "count" and value.numel() == 1):
        return f"{name!r} has shape {found}, not {wanted}"
    if kind == CODES:
        return "" if value.dtype is torch.int8 else f"{name!r} is of {value.dtype}, not of torch.int8"
    if not (value.is_floating_point() or (kind == "count" and value.dtype != torch.bool)):
        return f"{name!r} is of {value.dtype}, not of floating-point numbers"
    return ""
