"""A model as it was before torch.distributed wrapped it: its own classes, none of the wrappers' hooks, its shards.

Nothing here communicates, and no answer depends on the rank.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from normc.model.trace.foreign import ask, held_by, is_a

_HOMES = ("torch.distributed.", "torch.nn.parallel.")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def kind_of(module: nn.Module) -> type:
    """The module's own class: fully_shard and replicate put one of theirs in front of it."""
    kind = type(module)
    while kind.__module__.startswith(_HOMES) and len(kind.__bases__) == 2:
        front, own = kind.__bases__
        if issubclass(front, nn.Module) or not issubclass(own, nn.Module):
            break
        kind = own
    return kind


def is_sharded(tensor: object) -> bool:
    """Whether it is a DTensor, which lies over ranks."""
    return hasattr(tensor, "placements")


def entries(tensor: Tensor) -> Tensor | None:
    """All entries of `tensor`; None if it lies over ranks and not every one of them has all."""
    placements: Any = getattr(tensor, "placements", None)
    if placements is None:
        return tensor
    return tensor.to_local() if all(own.is_replicate() for own in placements) else None  # type: ignore[attr-defined]  # of DTensor


def shards(model: nn.Module) -> Mapping[int, nn.Parameter]:
    """The parameter that each whole one stands for which FSDP has put in its place for now, by the whole one's id."""
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if not hasattr(type(module), "_get_fsdp_state"):
            continue
        state = ask(module, "_get_fsdp_state")()
        groups = ask(state, "_fsdp_param_groups") or [ask(state, "_fsdp_param_group")]
        for one in (one for group in groups if group is not None for one in group.fsdp_params):
            for name in ("_unsharded_param", "_sharded_post_forward_param"):
                whole = vars(one).get(name)
                if whole is not None:
                    found[id(whole)] = one.sharded_param
    return found


def own_parameters(model: nn.Module, remove_duplicate: bool = True) -> list[tuple[str, nn.Parameter]]:
    """Those that an optimizer steps, as `model.named_parameters`: shards, also while FSDP has gathered them."""
    own = shards(model)
    return [(name, own.get(id(p), p)) for name, p in model.named_parameters(remove_duplicate=remove_duplicate)]


@contextlib.contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Inside, the model's modules are of their own classes, and only the model's own code and hooks run.

    Parameters stay DTensors, whose shapes are those of the whole.
    """
    if "torch.distributed" not in sys.modules:
        yield
        return
    own = shards(model)
    with contextlib.ExitStack() as undo:
        for module in model.modules():
            kind, given = kind_of(module), type(module)
            for table in (vars(module).get(name) for name in _HOOKS):
                if table and any(map(_of_wrapper, table.values())):
                    undo.callback(_refill, table, list(table.items()))
                    _refill(table, [(key, hook) for key, hook in table.items() if not _of_wrapper(hook)])
            for name, value in list(vars(module).items()):
                if is_a(value, FunctionType, MethodType) and hasattr(kind, name) and _of_wrapper(value):
                    undo.callback(vars(module).__setitem__, name, value)
                    del vars(module)[name]
            for name, parameter in list(module._parameters.items()):
                if id(parameter) in own:
                    undo.callback(module._parameters.__setitem__, name, parameter)
                    module._parameters[name] = own[id(parameter)]
            if kind is not given:
                undo.callback(setattr, module, "__class__", given)
                module.__class__ = kind
        yield


def _refill(table: dict[int, Any], items: list[tuple[int, Any]]) -> None:
    table.clear()
    table.update(items)


def _of_wrapper(hook: Any) -> bool:
    """Whether code of torch.distributed is called, or code that was given a mesh of ranks."""
    function = hook.__func__ if type(hook) is MethodType else hook
    homes = [ask(hook, "__module__"), type(hook).__module__, type(ask(hook, "__self__")).__module__]
    homes.append(ask(function, "__globals__", {}).get("__name__"))
    if any(isinstance(home, str) and f"{home}.".startswith(_HOMES) for home in homes):
        return True
    meshes: Any = ask(sys.modules.get("torch.distributed.device_mesh"), "DeviceMesh", ())
    return any(is_a(value, meshes) for value in held_by(hook))
