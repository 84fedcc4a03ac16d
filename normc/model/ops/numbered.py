"""Tokens that Python numbers pick from one parameter: those that join streams of their own are a stack, as the memory
of keys and that of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import fx

from normc.model.ops.call import MATRIX, Contact
from normc.model.ops.value import Axis


def by_stream(contacts: Sequence[Contact]) -> list[Contact]:
    """The contacts, in which an axis holds blocks if its numbered entries never stand beside each other.

    Tokens of one stream are put beside one activation, or beside what an earlier one was put beside, with no product of
    a weight between. These stay places of one table.
    """
    numbered: dict[Axis, dict[int, list[Contact]]] = {}
    for contact in contacts:
        for axis, entry in _picked(contact):
            numbered.setdefault(axis, {}).setdefault(entry, []).append(contact)
    several = {axis: list(entries.values()) for axis, entries in numbered.items() if len(entries) > 1}
    if not several:
        return list(contacts)
    products = {contact.node for contact in contacts if contact.kind in MATRIX}
    stacks = {axis for axis, entries in several.items() if _apart(entries, products)}
    return [_with_blocks(contact, stacks) for contact in contacts]


def _picked(contact: Contact) -> list[tuple[Axis, int]]:
    """The axes of which one entry joins an activation, and that entry."""
    return [
        (Axis(contact.parameter, part.axis), part.start)
        for part in contact.parts
        if contact.kind in ("join", "operand") and part.use == "index" and part.size == 1 and part.stride == 0
    ]


def _apart(entries: Sequence[Sequence[Contact]], products: set[fx.Node]) -> bool:
    """Whether no two entries stand in one stream."""
    streams = [_stream(own, products) for own in entries]
    places = [{contact.node for contact in own} for own in entries]
    hosts = [{contact.data for contact in own} for own in entries]
    return not any(
        hosts[one] & hosts[other] or streams[one] & places[other]
        for one in range(len(entries))
        for other in range(len(entries))
        if one != other
    )


def _stream(contacts: Iterable[Contact], products: set[fx.Node]) -> set[fx.Node]:
    """Where what they join goes, as far as the next products of weights; these belong to it no more."""
    found: set[fx.Node] = set()
    waiting = [contact.node for contact in contacts]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [user for user in node.users if user not in products]
    return found


def _with_blocks(contact: Contact, stacks: set[Axis]) -> Contact:
    axes = {axis.number for axis, _ in _picked(contact) if axis in stacks}
    if not axes:
        return contact
    return replace(
        contact, parts=tuple(part._replace(use="block") if part.axis in axes else part for part in contact.parts)
    )
