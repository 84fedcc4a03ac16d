"""Conditional random fields: scores of transitions are added for all pairs of tags, and picked for the true ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import normc

Step = Callable[[nn.Parameter, Tensor, Tensor], Tensor]
TAGS = 5


class Chain(nn.Module):
    """A linear chain over tags, batch first."""

    def __init__(self, step: Step, picked: Callable[[nn.Parameter, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.emit = nn.Embedding(20, 16), nn.Linear(16, TAGS)
        self.pairs = nn.Parameter(torch.randn(TAGS, TAGS))
        self.first, self.last = nn.Parameter(torch.randn(TAGS)), nn.Parameter(torch.randn(TAGS))
        self.step, self.picked = step, picked

    def forward(self, ids: Tensor, tags: Tensor) -> Tensor:
        scores = self.emit(self.embed(ids))
        alpha = self.first + scores[:, 0]
        for place in range(1, scores.shape[1]):
            alpha = self.step(self.pairs, alpha, scores[:, place])
        true = scores.gather(2, tags[..., None]).sum((1, 2)) + self.picked(self.pairs, tags)
        true = true + self.first[tags[:, 0]] + self.last[tags[:, -1]]
        return ((alpha + self.last).logsumexp(-1) - true).mean()


STEPS: dict[str, Step] = {
    "from, to": lambda w, a, e: (a[:, :, None] + w + e[:, None]).logsumexp(1),
    "unsqueezed": lambda w, a, e: (a.unsqueeze(-1) + w.unsqueeze(0)).logsumexp(1) + e,
    "to, from": lambda w, a, e: (a[:, None] + w).logsumexp(2) + e,
    "the best": lambda w, a, e: (a[:, :, None] + w).max(1)[0] + e,
}
PICKED: dict[str, Callable[[nn.Parameter, Tensor], Tensor]] = {
    "at once": lambda w, t: w[t[:, :-1], t[:, 1:]].sum(1),
    "one by one": lambda w, t: torch.stack([w[t[:, i], t[:, i + 1]] for i in range(t.shape[1] - 1)]).sum(0),
}


@pytest.mark.parametrize("picked", PICKED.values(), ids=PICKED)
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_transitions_are_no_embedding(step: Step, picked: Callable[[nn.Parameter, Tensor], Tensor]) -> None:
    plan = normc.plan(Chain(step, picked), (torch.randint(0, 20, (3, 6)), torch.randint(0, TAGS, (3, 6))))
    assert (plan["pairs"].role, plan["pairs"].out_axes, plan["pairs"].fallback) == ("bias", (0, 1), None)
    assert [plan[name].role for name in ("first", "last")] == ["bias", "bias"]
    assert [plan[f"{name}.weight"].role for name in ("embed", "emit")] == ["embedding", "output"]
