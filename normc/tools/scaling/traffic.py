"""Bytes and messages of an exchange, by rank: what `normc.update.runtime.spread.Exchange` sends, counted without it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from normc.update.program.rates import Rates
from normc.update.runtime.spread import Held, Value, bytes_of


@dataclass(frozen=True, slots=True)
class Kind:
    """Values of one shape and dtype that lie alike: each rank's part, and its number in `Held.alike`.

    An owner gets parts from the ranks of its own number; it hands parts on to all.
    """

    entries: Tensor
    bytes: Tensor
    alike: Tensor
    gathered: Tensor  # bytes that each rank would get of others, were it the owner
    handed: Tensor  # and hand to others

    @staticmethod
    def of(held: Held, dtype: torch.dtype) -> Kind:
        """The kind of a tensor that is held so."""
        entries = torch.tensor([math.prod(held.local(rank)) for rank in range(len(held.parts))], dtype=torch.int64)
        own = torch.tensor([bytes_of(part, dtype) for part in held.parts], dtype=torch.int64)
        alike = torch.tensor(held.alike, dtype=torch.int64)
        return Kind(entries, own, alike, _sums(own, alike) - own, own.sum() - own)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one exchange, by rank: bytes to and from others, those of them within its node, and the most messages."""

    sent: Tensor
    received: Tensor
    sent_within: Tensor
    received_within: Tensor
    messages: int

    def seconds(self, rates: Rates) -> float:
        """Until the last rank has all. Both directions at once, within nodes and between them at once."""
        between = torch.maximum(self.sent - self.sent_within, self.received - self.received_within)
        within = torch.maximum(self.sent_within, self.received_within)
        slowest = torch.maximum(between.double() / rates.between, within.double() / rates.within).max().item()
        return rates.latency + rates.message * self.messages + float(slowest)


class Kinds:
    """Kinds by how a tensor is held and in which dtype; few, where parameters are many."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, torch.dtype], tuple[Held, Kind]] = {}

    def __getitem__(self, key: tuple[Held, torch.dtype]) -> Kind:
        held, dtype = key
        if (id(held), dtype) not in self._of:
            self._of[id(held), dtype] = (held, Kind.of(held, dtype))  # kept, so that its id stays its own
        return self._of[id(held), dtype][1]

    def gathered(self, value: Value) -> int:
        """Bytes that the owner of a value gets from others."""
        return int(self[value.held, value.sent_as].gathered[value.owner])

    def handed(self, value: Value) -> int:
        """Bytes that the owner of a value hands to others."""
        return int(self[value.held, value.sent_as].handed[value.owner])


def traffic(values: Iterable[Value], ranks: int, node: int, inward: bool, kinds: Kinds) -> Traffic:
    """Of an exchange of these values between so many ranks, `node` of them a node."""
    owners: dict[int, tuple[Kind, list[int]]] = {}
    for value in values:
        kind = kinds[value.held, value.sent_as]
        owners.setdefault(id(kind), (kind, []))[1].append(value.owner)
    # An owner is a hub, and every rank a spoke to each: parts go from spokes to hubs, or back.
    spokes, hubs, near_spokes, near_hubs = (torch.zeros(ranks, dtype=torch.int64) for _ in range(4))
    nodes = torch.arange(ranks) // node
    messages = 0
    for kind, own in owners.values():
        count = torch.bincount(torch.tensor(own), minlength=ranks)
        alike = kind.alike if inward else torch.zeros_like(kind.alike)
        near = alike * (int(nodes[-1]) + 1) + nodes
        spokes += kind.bytes * (_sums(count, alike) - count)
        hubs += count * (_sums(kind.bytes, alike) - kind.bytes)
        near_spokes += kind.bytes * (_sums(count, near) - count)
        near_hubs += count * (_sums(kind.bytes, near) - kind.bytes)
        hub, spoke = (count > 0).long(), (kind.bytes > 0).long()
        links = torch.maximum(spoke * (_sums(hub, alike) - hub), hub * (_sums(spoke, alike) - spoke))
        messages = max(messages, int(links.max()))
    if inward:
        return Traffic(spokes, hubs, near_spokes, near_hubs, messages)
    return Traffic(hubs, spokes, near_hubs, near_spokes, messages)


def _sums(values: Tensor, groups: Tensor) -> Tensor:
    """Of each place, the sum of the values whose group is its own."""
    return torch.zeros(int(groups.max()) + 1, dtype=torch.int64).index_add_(0, groups, values)[groups]
