"""What a step does about gradients that aren't finite: nothing moves, or they count as zero. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from normc.update.runtime.faults import Flags, at_once, clean, flags, listed, named
from normc.update.runtime.layout import Layout
from normc.update.runtime.lists import ListOptimizer, Share


class Pending(Protocol):
    """A step whose flags are on their way from the device."""

    flags: Flags

    def undo(self) -> None:
        """Take back what the host counted: the device has written nothing."""


class JudgingOptimizer(ListOptimizer):
    """Judges gradients before a step writes, by the policy; reads what a device found at the step after it."""

    _pending: Pending | None = None
    _owed: Sequence[str] = ()
    _nonfinite: Mapping[str, int] = MappingProxyType({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's, which is also how a state_dict gets in; what a device finds of the states before is forgotten."""
        super().__setstate__(state)
        self._pending = None

    def __getstate__(self) -> dict[str, Any]:
        """As torch's, when what the device found is known."""
        self._settle()
        return {**super().__getstate__(), "_nonfinite": dict(self._nonfinite)}

    def state_dict(self) -> dict[str, Any]:
        """As torch's, when what the device found is known."""
        self._settle()
        return super().state_dict()

    @property
    def nonfinite(self) -> Mapping[str, int]:
        """By parameter, the steps at which its gradient wasn't finite. Waits for the last step on a GPU."""
        self._settle()
        return dict(self._nonfinite)

    def _found(self, shares: Sequence[Share]) -> Tensor | None:
        """The flags of gradients that aren't finite, and whether any is; None where nobody looks."""
        if not shares or self._policy == "ignore":
            return None
        return flags([gradient for share in shares for gradient in share.gradients])

    def _judged(self, shares: Sequence[Share], found: Tensor | None, layout: Layout | None) -> bool | Tensor:
        """Whether lists may be written to: known now, or a flag on the device. Kernels, if they have run, have asked
        the flags of `layout` themselves. Raises what is known now.
        """
        if self._policy == "ignore":
            return True
        if found is None:
            assert layout is not None
            if layout.flags.send():
                self._pending = layout
            return True
        names = [name for share in shares for name in share.names]
        if layout is None and at_once(found.device):
            return self._judged_now(shares, named(names, found))
        if layout is not None:
            kernels = layout.flags
            names, found = [*kernels.names, *names], torch.cat([kernels.found[:-1], found[:-1], kernels.found[-1:]])
        sent = _Sent(Flags(names, found), layout, self._counts(shares))
        if sent.flags.send():
            self._pending = sent
        if self._policy == "zero":
            clean([gradient for share in shares for gradient in share.gradients])
            return True
        return found[-1] == 0

    def _judged_now(self, shares: Sequence[Share], wrong: Sequence[str]) -> bool:
        """Whether lists may be written to, where the host knows whose gradients aren't finite."""
        if not wrong:
            return True
        self._told_of(wrong)
        if self._policy == "raise":
            self._raise(wrong, "is")
        if self._policy == "zero":
            clean([gradient for share in shares for gradient in share.gradients])
        return self._policy == "zero"

    def _counts(self, shares: Sequence[Share]) -> list[Tensor]:
        """What the host counts of these steps."""
        return [
            self._state(parameter, name, kind)
            for share in shares
            for name, kind in share.bucket.states
            if kind == "count"
            for parameter in share.parameters
        ]

    def _settle(self) -> None:
        """Read what the device found at the step before. An error is owed to the next step."""
        pending = self._pending
        if pending is None or pending.flags.captured():
            return
        self._pending = None
        if not (wrong := pending.flags.wrong()):
            return
        if self._policy != "zero":
            pending.undo()
        self._told_of(wrong)
        if self._policy == "raise":
            self._owed = wrong

    def _pay(self) -> NoReturn:
        """Raise the error that is owed."""
        owed, self._owed = self._owed, ()
        self._raise(owed, "was")

    def _told_of(self, wrong: Sequence[str]) -> None:
        """Count the parameters whose gradients aren't finite; say so once, where nothing is raised."""
        counted = dict(self._nonfinite)
        for name in wrong:
            counted[name] = counted.get(name, 0) + 1
        self._nonfinite = counted
        done = {"skip": "the step is skipped", "zero": "such entries count as zero"}.get(self._policy)
        if done is not None:
            text = f"the gradient of {listed(wrong)} is not finite: {done}, this time and later ones"
            self._tell("nonfinite", f"{text}\n  fix: look for what made it; opt.nonfinite counts such steps")

    def _raise(self, wrong: Sequence[str], was: str) -> NoReturn:
        self._fail(
            f"the gradient of {listed(wrong)} {was} not finite; that step has moved nothing",
            'look for what made it (a loss of NaN, fp16 without a GradScaler), or give nonfinite="skip" or "zero"',
        )


class _Sent:
    """A step of lists, beside kernels if there are any, whose flags are on their way."""

    def __init__(self, flags: Flags, layout: Layout | None, counts: list[Tensor]) -> None:
        self.flags, self._layout, self._counts = flags, layout, counts

    def undo(self) -> None:
        """Take back what the host counted."""
        if self._layout is not None:
            self._layout.undo()
        if self._counts:
            torch._foreach_sub_(self._counts, 1.0)
