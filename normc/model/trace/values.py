"""Which node holds the value of which tensor, now: in-place writes become dataflow."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from normc.model.trace.foreign import contents_of, held_by, is_a

# Arguments and results of ATen calls: tensors and literals, nested in lists, tuples and dicts.
Structure: TypeAlias = Any  # a recursive type would need casts at every torch call
Layout: TypeAlias = tuple[int, int, tuple[int, ...], tuple[int, ...], torch.dtype]


_NESTED = (tuple, list, dict)


def map_leaves(structure: Structure, change: Callable[[Any], Any]) -> Structure:
    """`structure` with `change` applied to everything that is not a list, tuple or dict; torch.Size becomes a tuple."""
    if not isinstance(structure, _NESTED):
        return change(structure)
    if isinstance(structure, dict):
        return {key: map_leaves(part, change) for key, part in structure.items()}
    parts = [map_leaves(part, change) if isinstance(part, _NESTED) else change(part) for part in structure]
    if isinstance(structure, list):
        return parts
    return type(structure)(*parts) if hasattr(structure, "_fields") else tuple(parts)


def tensors_in(structure: Structure) -> list[Tensor]:
    """Every tensor leaf, in order."""
    if not isinstance(structure, _NESTED):
        return [structure] if isinstance(structure, Tensor) else []
    found: list[Tensor] = []
    for part in structure.values() if isinstance(structure, dict) else structure:
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, _NESTED):
            found += tensors_in(part)
    return found


def tensor_leaves(value: object) -> list[Tensor]:
    """Every tensor in what a forward returned: containers, dataclasses, model outputs, plain objects. Each once."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    waiting: list[object] = [value]
    while waiting:
        for item in pytree.tree_leaves(waiting.pop(0)):
            if is_a(item, Tensor):
                found.setdefault(id(item), item)
            elif id(item) not in seen and not is_a(item, type, nn.Module, types.ModuleType):
                seen.add(id(item))
                waiting.append([*held_by(item), *contents_of(item)])
    return list(found.values())


def storage_key(tensor: Tensor) -> int | None:
    """An identity of the memory that `tensor` lives in; None where the layout has no one storage (sparse)."""
    if tensor.layout is not torch.strided:
        return None
    key: int = tensor.untyped_storage()._cdata
    return key


def _layout(tensor: Tensor, key: int) -> Layout:
    return key, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.dtype


class _Holding(NamedTuple):
    """`node` held the value of `tensor` when its storage had been written `version` times."""

    tensor: Tensor  # kept, so that neither its id nor its storage's is ever given to another
    node: fx.Node
    version: int
    key: int | None


class _Write(NamedTuple):
    version: int
    node: fx.Node


class Values:
    """The current node of every tensor. A read after a write through an alias gets a node that depends on the write.

    A leaf is a parameter. A write that autograd doesn't record changes its numbers, and it stays the leaf that it was:
    what is read later is the parameter.
    """

    def __init__(self, reread: Callable[[fx.Node, fx.Node], fx.Node]) -> None:
        """`reread(old, write)` makes the node of a value that `write` has changed since `old`."""
        self._reread = reread
        self._holdings: dict[int, _Holding] = {}
        self._writes: dict[int, _Write] = {}
        self._by_layout: dict[Layout, int] = {}
        self._leaves: set[int] = set()
        self._learning: dict[int | None, bool] = {}  # by the leaf's storage

    def bind(self, tensor: Tensor, node: fx.Node) -> None:
        """From now on `node` is the value of `tensor`."""
        key = storage_key(tensor)
        self._holdings[id(tensor)] = _Holding(tensor, node, self._version(key), key)
        if key is not None:
            self._by_layout[_layout(tensor, key)] = id(tensor)

    def make_leaf(self, tensor: Tensor) -> None:
        """`tensor`, which is bound, is a parameter."""
        self._leaves.add(id(tensor))
        if (key := storage_key(tensor)) is not None:
            self._learning[key] = tensor.requires_grad

    def write(self, tensor: Tensor, node: fx.Node) -> None:
        """`node` has written to the storage of `tensor`: every value in it is out of date."""
        key = storage_key(tensor)
        if key is not None:
            self._writes[key] = _Write(self._version(key) + 1, node)

    def stays_leaf(self, tensor: Tensor, recorded: bool) -> bool:
        """Whether `tensor` is a parameter, or a view of one, and stays it when it is written to.

        Autograd refuses to record a write to what needs a gradient: it must have been hidden from it.
        """
        key = storage_key(tensor)
        if id(tensor) in self._leaves and key not in self._learning:
            return not recorded or tensor.requires_grad
        return key in self._learning and (not recorded or self._learning[key])

    def find(self, tensor: Tensor) -> fx.Node | None:
        """The node that holds the value of `tensor` now, or None if no recorded op made it.

        Tensors that autograd saved and unpacked, or that `.data` was pointed at, are other objects over memory that is
        known: they are found by it. A parameter stays itself, wherever its `.data` points.
        """
        key = storage_key(tensor)
        held = self._holdings.get(id(tensor))
        if held is not None and held.key != key and id(tensor) in self._leaves:
            return held.node
        if held is None or held.key != key:
            twin = self._by_layout.get(_layout(tensor, key)) if key is not None else None
            if twin is not None:
                held = self._holdings[twin]
            if held is None:
                return None
        node = held.node
        if key is not None and (last := self._writes.get(key)) is not None and last.version > held.version:
            node = self._reread(node, last.node)
        if node is not held.node or held.tensor is not tensor:
            self.bind(tensor, node)
        return node

    def _version(self, key: int | None) -> int:
        last = self._writes.get(key) if key is not None else None
        return last.version if last is not None else 0
