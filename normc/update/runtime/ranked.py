"""A step over ranks: shards by themselves, whole tensors on their owners, shards again. Needs torch alone.

Updates run one behind another, each an ordinary one on plain tensors; between them values cross ranks, in one packed
message between any two. What owners do may come in windows: while one is worked on, others' messages are under way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from normc.update.runtime.agreeing import compared, heard
from normc.update.runtime.crossing import Crossing, Spread, value_of
from normc.update.runtime.faults import flags, named
from normc.update.runtime.lying import states_of
from normc.update.runtime.rounding import local
from normc.update.runtime.run import Update
from normc.update.runtime.spread import Exchange, Rooms, Value
from normc.update.runtime.step import UpdateOptimizer
from normc.update.runtime.windows import SLOTS, Window, crossed

Key = tuple[str, str]  # a parameter's name, and that of a state or of a value that crosses ranks


@dataclass(frozen=True)
class Updates:
    """What a rank runs: on its shards, on what it owns, a window after another, and on its shards again."""

    before: Update
    whole: tuple[Update, ...]
    after: Update


class PartOptimizer(UpdateOptimizer):
    """One of the three. Whoever runs it has judged its gradients."""

    def run(self, groups: Sequence[Mapping[str, Any]], places: Sequence[int]) -> None:
        """Step, with the values of these groups, whose numbers in the plan are `places`."""
        of = dict(zip(places, groups, strict=True))
        for place, group in zip(self._places, self.param_groups, strict=True):
            if place in of:
                group.update({key: value for key, value in of[place].items() if key not in ("params", "param_names")})
        with torch.no_grad():
            self._update_members(self._by_names())

    def _tell_nothing_trains(self) -> None:
        """Another rank's parameters may."""

    def _check_held(self, names: list[str], parameters: list[Tensor], grads: list[Tensor]) -> None:
        """Whoever runs it watches the gradients that hold an average."""

    def _watch_held(self, names: list[str], parameters: list[Tensor]) -> None:
        """As above."""


class Ranked:
    """The step of one rank. `members` are the model's parameters by name; states are kept in `kept`, by parameter.

    `teams` are the process groups that parameters lie over; those of experts may be others than those of the rest.
    `plan` tells the plan from others. A plain member is one that all ranks have alike.
    """

    def __init__(
        self,
        members: Mapping[str, Tensor],
        spreads: Sequence[Spread],
        updates: Updates,
        teams: Sequence[Any],
        compile: bool | None,
        kept: Mapping[Tensor, dict[str, Tensor]],
        plan: str = "",
    ) -> None:
        self.plan = plan
        for spread in spreads:
            own = kept[members[spread.name]]
            wide = torch.promote_types(members[spread.name].dtype, updates.after.compute_dtype)
            for state, tensor in states_of(members[spread.name], spread.states, wide, updates.after.state).items():
                own.setdefault(state, tensor)
        self.members, self.spreads, self.teams = members, {spread.name: spread for spread in spreads}, teams
        self.ranks = [torch.distributed.get_rank(team) for team in teams]
        self.kept = kept
        self.shards = {name: local(members[name]).detach() for name in self.spreads}
        device = next(iter(self.shards.values())).device
        self._wide = {
            name: torch.promote_types(shard.dtype, updates.after.compute_dtype) for name, shard in self.shards.items()
        }
        self.windows = [Window() for _ in updates.whole]
        self._whole: dict[Key, Tensor] = {}
        rooms = [Rooms(device) for _ in range(SLOTS)]
        for place, window in enumerate(self.windows):
            for team, group in enumerate(teams):
                owned = [spread for spread in spreads
                         if spread.team == team and spread.owner is not None and spread.window == place]  # fmt: skip
                if owned:
                    self._cross(window, owned, group, rooms[place % SLOTS])
        self._temporary: dict[Key, Tensor] = {
            (name, one.name): torch.zeros_like(self.shards[name], dtype=self._wide[name])
            for name, spread in self.spreads.items()
            for one in (*spread.there, *spread.across)
            if one.source is None
        }
        self._dummies = {
            name: next(
                self._whole[name, one.name]
                for one in spread.back
                if one.kind == "like" and one.source in (None, "weight")
            )
            for name, spread in self.spreads.items()
            if spread.owner == self.ranks[spread.team]
        }

        def part(update: Update, own: Mapping[str, Tensor]) -> PartOptimizer | None:
            named = [(name, own[name]) for name in update.entries]
            return PartOptimizer(named, update, 0.0, compile, "ignore") if named else None

        self._before, self._after = part(updates.before, self.shards), part(updates.after, self.shards)
        self._owned = [part(update, self._dummies) for update in updates.whole]

    def _cross(self, window: Window, spreads: Sequence[Spread], group: Any, rooms: Rooms) -> None:
        """Add what crosses ranks of a team for these, and room for what this rank owns of them."""
        there = [self._value(spread, one) for spread in spreads for one in spread.there]
        back = [self._value(spread, one) for spread in spreads for one in spread.back]
        window.there.append(Exchange(there, group, rooms, True))
        window.back.append(Exchange(back, group, rooms, False))
        self._whole |= window.there[-1].results()
        rank = torch.distributed.get_rank(group)
        for value in (*there, *back):
            if value.owner == rank and value.key not in self._whole:
                self._whole[value.key] = torch.zeros(value.held.shape, dtype=value.dtype, device=rooms.device)

    @property
    def exchanges(self) -> list[Exchange]:
        """All of a step's."""
        return [exchange for window in self.windows for exchange in (*window.there, *window.back)]

    def _value(self, spread: Spread, one: Crossing) -> Value:
        member = self.members[spread.name]
        kept = self.kept.get(member, {})
        dtypes = {state: kept[state].dtype for state, kind in spread.states if kind != "grad" and state in kept}
        lies = (tuple(member.device_mesh.mesh.shape), member.placements) if isinstance(member, DTensor) else None
        return value_of(spread, one, lies, self._wide[spread.name], dtypes)

    @property
    def names(self) -> list[str]:
        """The parameters that are stepped."""
        return list(self.spreads)

    def align(self, live: Sequence[str]) -> None:
        """Lay gradients as their parameters lie: those of a sharded table may be whole on every rank."""
        for name in live:
            member = self.members[name]
            grad = member.grad
            if isinstance(member, DTensor) and isinstance(grad, DTensor) and grad.placements != member.placements:
                member.grad = grad.redistribute(member.device_mesh, member.placements)

    @property
    def shares(self) -> bool:
        """Whether a rank steps anything for others."""
        return any(spread.owner is not None for spread in self.spreads.values())

    def agreed(
        self, live: Sequence[str], gradients: Sequence[Tensor], judged: bool, fail: Callable[[str, str], NoReturn]
    ) -> list[str]:
        """Whose gradients aren't finite, on any rank. Fails, on all, where ranks have other parameters' gradients, and
        where a rank is gone.
        """
        found = flags([local(gradient) for gradient in gradients]) if judged and gradients else None
        device = next(iter(self.shards.values())).device
        wrong = 0.0 if found is None else found[-1].item()
        with heard(fail, "before anything has moved"):
            same, any_wrong = compared("\n".join([self.plan, *live]), wrong, self.teams, device)
        if not same:
            fail(
                f"ranks have gradients of other parameters, or another plan by now: rank {self.ranks[0]} has "
                f"{len(live)} of {len(self.names)}",
                "let every rank run the same layers, or give zeros as gradients; call opt.replan on every rank",
            )
        if not any_wrong:
            return []
        return named(live, torch.zeros(1) + 1.0 if found is None else torch.cat([found[:-1], found.new_ones(1)]))

    def step(
        self,
        live: Sequence[str],
        groups: Sequence[Mapping[str, Any]],
        places: Sequence[int],
        fail: Callable[[str, str], NoReturn],
    ) -> None:
        """Step the parameters `live`, the same ones on all ranks. Fails where a rank is gone: then no weight moves."""
        grads = {name: local(self.members[name].grad) for name in live}  # type: ignore[arg-type]
        counted: dict[Key, float] = {}
        if self._before is not None:
            self._run(self._before, grads, groups, places, counted, {})
        given: dict[Key, Tensor] = {}
        for name in live:
            spread = self.spreads[name]
            for one in spread.there if spread.owner is not None else ():
                given[name, one.name] = self._at_hand(name, one, grads[name])
        own = {name: tensor.detach() for name, tensor in self._dummies.items() if name in grads}

        def work(place: int) -> None:
            if (part := self._owned[place]) is not None:
                self._run(part, own, groups, places, counted, self._whole)

        arrived = crossed(self.windows, given, self._whole, work, fail)
        for name in live:
            for one in self.spreads[name].back:
                if one.source == "weight":
                    self.shards[name].copy_(arrived[name, one.name])
                elif one.source is not None:
                    local(self.kept[self.members[name]][one.source]).copy_(arrived[name, one.name])
        if self._after is not None:
            self._run(self._after, grads, groups, places, counted, arrived)
        for name in live:
            for state, kind in self.spreads[name].states:
                if kind == "count":
                    count = self.kept[self.members[name]][state]
                    count.fill_(counted.get((name, state), count.item() + 1.0))

    def _at_hand(self, name: str, one: Crossing, grad: Tensor) -> Tensor:
        if one.source is None:
            return self._temporary[name, one.name]
        if one.source in ("weight", "grad"):
            return self.shards[name] if one.source == "weight" else grad
        if dict(self.spreads[name].states)[one.source] == "grad":
            return grad
        return local(self.kept[self.members[name]][one.source])

    def _run(
        self,
        part: PartOptimizer,
        grads: Mapping[str, Tensor],
        groups: Sequence[Mapping[str, Any]],
        places: Sequence[int],
        counted: dict[Key, float],
        values: Mapping[Key, Tensor],
    ) -> None:
        members = part._by_names()
        for name, parameter in members.items():
            parameter.grad = grads.get(name)
        counts = []
        for bucket in part.update.buckets:
            for name in bucket.names:
                if name not in grads:
                    continue
                own = part.state[members[name]]
                for state, kind in bucket.states:
                    if kind == "count":
                        count = self.kept[self.members[name]][state]
                        own.setdefault(state, torch.tensor(0.0)).fill_(count.item())
                        counts.append((name, state, own[state]))
                    elif kind != "grad":
                        own[state] = self._slot(name, state, values)
        part.run(groups, places)
        for parameter in members.values():
            parameter.grad = None
        counted |= {(name, state): count.item() for name, state, count in counts}

    def _slot(self, name: str, state: str, values: Mapping[Key, Tensor]) -> Tensor:
        if (name, state) in values:
            return values[name, state]
        if (name, state) in self._temporary:
            return self._temporary[name, state]
        return local(self.kept[self.members[name]][state])
