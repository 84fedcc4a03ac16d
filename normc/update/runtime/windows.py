"""Owners' work in windows: while one is worked on, what crosses ranks for others is under way. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from torch import Tensor

from normc.update.runtime.agreeing import heard
from normc.update.runtime.spread import Exchange

SLOTS = 2  # windows whose messages are under way at a time; one takes the room of the one so many before it

Values = Mapping[tuple[str, str], Tensor]


class Window:
    """What crosses ranks for a part of owners' work: one exchange there and one back for each team that has a part."""

    def __init__(self) -> None:
        self.there: list[Exchange] = []
        self.back: list[Exchange] = []


def crossed(
    windows: Sequence[Window],
    given: Values,
    whole: Values,
    work: Callable[[int], None],
    fail: Callable[[str, str], NoReturn],
) -> dict[tuple[str, str], Tensor]:
    """Send what is given, let owners `work` on each window, by its place, and return what comes back of their `whole`
    tensors. Fails where a rank is gone.
    """
    arrived: dict[tuple[str, str], Tensor] = {}
    left = "after averages have taken its gradients and before weights have moved"
    with heard(fail, left):
        for window in windows[:SLOTS]:
            _begin(window.there, given)
    for place, window in enumerate(windows):
        with heard(fail, left):
            _finish(window.there)
        work(place)
        with heard(fail, left):
            if place >= SLOTS:  # whose room this one's messages take
                arrived |= _finish(windows[place - SLOTS].back)
            _begin(window.back, whole)
            if place + SLOTS < len(windows):
                _begin(windows[place + SLOTS].there, given)
    with heard(fail, left):
        for window in windows[-SLOTS:]:
            arrived |= _finish(window.back)
    return arrived


def _begin(exchanges: Sequence[Exchange], given: Values) -> None:
    for exchange in exchanges:
        exchange.begin(given)


def _finish(exchanges: Sequence[Exchange]) -> dict[tuple[str, str], Tensor]:
    """All that has arrived."""
    found: dict[tuple[str, str], Tensor] = {}
    for exchange in exchanges:
        exchange.finish()
        found |= exchange.results()
    return found
