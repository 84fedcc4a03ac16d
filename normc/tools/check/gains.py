"""Every parameter's gain to the output, S R: nominal, as measured at the budget and as initialised, and at worst."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from normc.model.ops.call import Contact
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.sensitivity import Sensitivities
from normc.tools.check.budget import at_budget
from normc.tools.check.grouping import lines
from normc.tools.check.probe import Probed, averages, sharpest
from normc.tools.check.subject import Subject, Weights
from normc.tools.check.verdict import OK, Verdict, worst

FACTOR = 4.0
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class Gain:
    """One parameter: how much a unit step of it (in its operator norm) moves the output, RMS to RMS.

    `nominal` is S R as the plan has it, for an output in its own unit; None if it isn't known. `budget` and `initial`
    are measured averages.
    """

    name: str
    role: str
    nominal: float | None
    budget: float
    initial: float
    verdict: Verdict

    @property
    def ratios(self) -> tuple[float | None, float | None]:
        """Measured over nominal: at the budget, and as initialised."""
        if not self.nominal:
            return None, None
        return self.budget / self.nominal, self.initial / self.nominal


@dataclass(frozen=True, slots=True)
class GainRow:
    """Layers that are one line of the table: the numbers of the member that is farthest off; `sharp` is its own."""

    name: str
    count: int
    shown: Gain
    sharp: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Gains:
    """Part one of a check."""

    of: tuple[Gain, ...]
    rows: tuple[GainRow, ...]
    blocked: Mapping[str, tuple[str, ...]]


def measure_gains(subject: Subject, probes: int, iterations: int, seed: int) -> Gains:
    """Probe the graph twice, at the budget and as initialised; `iterations` 0 leaves out the worst case."""
    budget = at_budget(subject, seed)
    there, here = averages(subject, budget, probes, seed), averages(subject, subject.initial, probes, seed)
    blocked = {row.name: _blockers(subject, row.name) for row in subject.plan.rows}
    found = {row.name: _gain(subject, row.name, row.role, there, here, blocked) for row in subject.plan.rows}
    rows = []
    for family in lines(subject.plan):
        members = [found[row.name] for row in family.rows]
        shown = max(members, key=_distance)
        sharp = _worst_case(subject, budget, there, shown.name, iterations, seed) if iterations else None
        rows.append(GainRow(family.name, len(members), shown, sharp, worst([member.verdict for member in members])))
    return Gains(tuple(found.values()), tuple(rows), {name: by for name, by in blocked.items() if by})


def _distance(gain: Gain) -> float:
    """How far the measured gains are from the nominal one, in powers; what is blocked counts as agreeing."""
    return max((abs(math.log(ratio)) for ratio in gain.ratios if ratio is not None and ratio > _NOTHING), default=0.0)


def _contacts(subject: Subject, name: str) -> tuple[Contact, ...]:
    return subject.facts[Binding].contacts[name]


def _met(contact: Contact) -> fx.Node | None:
    """What the parameter multiplies, as the nominal gains have it; None where that counts as of size 1."""
    if contact.kind in ("lookup", "shift", "join", "operand"):
        return None
    return contact.node if contact.kind == "gain" else contact.data


def _gain(
    subject: Subject, name: str, role: str, there: Probed, here: Probed, blocked: Mapping[str, tuple[str, ...]]
) -> Gain:
    atom = subject.facts[Sensitivities].of[name]
    known = atom.sensitivity is not None and atom.magnitude is not None
    unit = subject.facts[Sensitivities].unit
    nominal = (atom.sensitivity or 0.0) * (atom.magnitude or 0.0) * unit if known else None
    budget, initial = _measured(subject, name, there), _measured(subject, name, here)
    steers = all((g := subject.facts[Sensitivities].nodes.get(c.node)) and g.weak for c in _contacts(subject, name))
    verdict = _judged(nominal, budget, initial, bool(steers), blocked[name], atom.unknown)
    return Gain(name, role, nominal, budget, initial, verdict)


def _measured(subject: Subject, name: str, probed: Probed) -> float:
    """The root of the sum over a parameter's uses of (gain * RMS of what it multiplies)^2."""
    total = 0.0
    for contact in _contacts(subject, name):
        met = _met(contact)
        total += (probed.gain.get(contact.node, 0.0) * (1.0 if met is None else probed.rms.get(met, 1.0))) ** 2
    return math.sqrt(total)


def _worst_case(
    subject: Subject, weights: Weights, probed: Probed, name: str, iterations: int, seed: int
) -> float | None:
    """`_measured` with the sharp gains."""
    contacts = [contact for contact in _contacts(subject, name) if contact.node in probed.gain]
    found = sharpest(subject, weights, [contact.node for contact in contacts], iterations, seed)
    if not found or any(gain is None for gain in found.values()):
        return None
    return _measured(subject, name, Probed({node: gain or 0.0 for node, gain in found.items()}, probed.rms))


def _blockers(subject: Subject, name: str) -> tuple[str, ...]:
    """Weights that are all zero and lie behind a use of the parameter: what may keep its gain at nothing."""
    zero = {
        contact.node: other
        for other, contacts in subject.facts[Binding].contacts.items()
        for contact in contacts
        if contact.kind not in ("shift", "join") and not _any(subject.initial.of[other])
    }
    waiting, seen = [contact.node for contact in _contacts(subject, name)], set()
    found: dict[str, None] = {}
    while waiting:
        for user in waiting.pop().users:
            if user not in seen:
                seen.add(user)
                waiting.append(user)
                if user in zero:
                    found[zero[user]] = None
    return tuple(other for other in found if other != name)


def _any(tensor: Tensor) -> bool:
    return bool(tensor.any())


STEERS = (
    "it steers an average (a query or key in front of a softmax): attention starts out uniform, so its gain is small "
    "at init and grows; its target is the nominal one, which doesn't follow"
)
ZERO = (
    "its gain is 0 as initialised, since zero-initialised weights lie between it and the output: not a fault, and no "
    "target blows up: targets are made of the nominal gain at the budget, never of the measured 0"
)
LARGE = (
    "a step moves the output more than its target allows for: lower its scale (--override), or look at its op's gain"
)
SMALL = (
    "its random changes average out before the output (as in a mean over positions), or its nominal gain is an "
    "over-estimate: steps may be smaller than they might be, which is safe"
)
INIT_LARGE = (
    "at the budget the gains agree: the plan is right, and the initial weights are off (small embeddings in front of a "
    "norm, or weights that are too large). Until training has brought them to their norms, a step moves the output "
    "further: warm up the learning rate, or start from normc.init_ (check it with --init)"
)
INIT_SMALL = (
    "at the budget the gains agree; the initial weights are smaller than their norms' spheres: first steps move the "
    "output less than planned, which is safe"
)


def _judged(
    nominal: float | None, budget: float, initial: float, steers: bool, blocked: tuple[str, ...], unknown: str
) -> Verdict:
    if nominal is None:
        return Verdict("note", "no nominal", f"no nominal gain: {unknown or 'an op on the way has no gain rule'}")
    if not nominal:
        return OK if budget < _NOTHING else Verdict("note", "no nominal", "no nominal gain leads to the output")
    if budget > FACTOR * nominal:
        return Verdict("wrong", "too large", LARGE)
    if initial < _NOTHING and blocked:
        return Verdict("note", "0 at init", ZERO)
    if initial > FACTOR * nominal:
        return Verdict("note", "large at init", INIT_LARGE)
    if min(budget, initial) * FACTOR < nominal and steers:
        return Verdict("note", "steers", STEERS)
    if budget * FACTOR < nominal:
        return Verdict("wrong" if budget < _NOTHING else "note", "small", SMALL)
    if initial * FACTOR < nominal:
        return Verdict("note", "small at init", INIT_SMALL)
    return OK
