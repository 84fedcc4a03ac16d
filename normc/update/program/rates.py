"""How fast ranks compute and how fast they send: assumptions, which predictions are made with."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from normc.arguments import instance, number
from normc.errors import NormcError


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one rank; the defaults are rough ones of an H100 with NVLink and a 400 Gb/s network card for each GPU.

    flops    operations a second in products of matrices
    memory   bytes a second of its memory
    within   bytes a second that it sends within a node, each way
    between  bytes a second that it sends to other nodes, each way
    latency  seconds that a collective call takes by itself
    message  seconds that each message of such a call takes, of a rank to another
    launch   seconds that it takes to start the products of a window of owners' work
    node     ranks of a node
    """

    flops: float = 600e12
    memory: float = 3.0e12
    within: float = 350e9
    between: float = 45e9
    latency: float = 30e-6
    message: float = 1e-6
    launch: float = 40e-6
    node: int = 8

    def __post_init__(self) -> None:
        for own in fields(self):
            least = own.name in ("latency", "message", "launch")
            fix = "give a number that is not negative" if least else "give a number above 0"
            number(own.name, getattr(self, own.name), fix, lambda value, zero=least: value > 0 or (zero and value == 0))  # type: ignore[misc]  # of the lambda
        if self.node != int(self.node):
            raise NormcError(f"node is {self.node}", "give a whole number of ranks")

    def __str__(self) -> str:
        return (
            f"{self.flops / 1e12:g} TFLOP/s, memory {self.memory / 1e12:g} TB/s, {self.within / 1e9:g} GB/s within a "
            f"node of {self.node} ranks and {self.between / 1e9:g} GB/s between nodes, {self.latency * 1e6:g} µs a "
            f"call, {self.message * 1e6:g} µs a message, {self.launch * 1e6:g} µs to start a window"
        )


DEFAULT = Rates()


def rates_of(given: Any) -> Rates:
    """Return `given` as rates: None for the defaults, a mapping for some of them. NormcError for others."""
    if given is None:
        return DEFAULT
    if isinstance(given, dict):
        known = [own.name for own in fields(Rates)]
        wrong = [name for name in given if name not in known]
        if wrong:
            raise NormcError(f"no rate is called {wrong[0]!r}", f"known: {', '.join(known)}")
        return Rates(**given)
    return instance("rates", given, Rates, 'give {"between": 45e9}, or normc.update.program.rates.Rates')
