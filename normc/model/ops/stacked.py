"""Vectors beside a stack of matrices: an axis that lies along the stack is one of blocks too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from normc.model.ops.call import MATRIX, Contact
from normc.model.ops.value import Axis

Shapes = Mapping[str, tuple[int, ...]]


def beside_stacks(contacts: Sequence[Contact], shapes: Shapes) -> list[Contact]:
    """The contacts, in which biases and gains of batched experts have a vector for each expert, however broadcast."""
    uses: dict[Axis, set[str]] = {}
    for contact in contacts:
        for part in contact.parts if contact.kind in MATRIX else ():
            whole = part.size == shapes[contact.parameter][part.axis]
            uses.setdefault(Axis(contact.parameter, part.axis), set()).add(part.use if whole else "part")
    stacks = {axis for axis, found in uses.items() if found == {"block"}}
    return [_along(contact, stacks, shapes) for contact in contacts]


def _along(contact: Contact, stacks: set[Axis], shapes: Shapes) -> Contact:
    """A bias or gain that all along one axis meets the matrices of a stack, and along another what each puts out."""
    if contact.kind not in ("shift", "gain"):
        return contact
    shape = shapes[contact.parameter]
    along = {partner.own.number for partner in contact.partners
             if partner.axis in stacks and partner.size == shape[partner.own.number]}  # fmt: skip
    if not along or not {part.axis for part in contact.parts if part.use == "out"} - along:
        return contact
    parts = (part._replace(use="block") if part.use == "out" and part.axis in along else part for part in contact.parts)
    return replace(contact, parts=tuple(parts))
