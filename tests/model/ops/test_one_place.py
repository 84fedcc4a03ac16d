"""An example of one token or of one sample: roles don't depend on it where the model says what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc


class Embedded(nn.Module):
    """Tokens, their places and a default type, as encoders add them."""

    def __init__(self, places: str) -> None:
        super().__init__()
        self.tokens, self.places, self.types = (nn.Embedding(size, 8) for size in (11, 16, 3))
        self.head, self.how = nn.Linear(8, 5), places
        self.stored: Tensor
        self.plain: Tensor
        self.register_buffer("stored", torch.arange(16)[None])
        self.register_buffer("plain", torch.zeros(1, 16, dtype=torch.long))

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        found: Tensor = {
            "arange": lambda: torch.arange(length),
            "after": lambda: 2 + torch.arange(0, length)[None].expand(len(ids), -1),
            "stored": lambda: self.stored[:, :length],
            "cumsum": lambda: torch.ones(len(ids), length, dtype=torch.long).cumsum(1) - 1,
        }[self.how]()
        types = torch.gather(self.plain.expand(len(ids), -1), 1, self.stored[:, :length].expand(len(ids), -1))
        return self.head(self.tokens(ids) + self.places(found) + self.types(types))


@pytest.mark.parametrize("shape", [(2, 8), (2, 1), (1, 8), (1, 1)])
@pytest.mark.parametrize("places", ["arange", "after", "stored", "cumsum"])
def test_a_table_of_places_is_one_also_for_one_token(places: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plan = normc.plan(Embedded(places), torch.randint(0, 11, shape), recipe="uscion")
    roles = {row.name: row.role for row in plan}
    assert roles["places.weight"] == "position"
    assert roles["tokens.weight"] == roles["types.weight"] == "embedding"


class Judge(nn.Module):
    """A projection discriminator: a row a label, multiplied with the features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.label = nn.Linear(6, 8), nn.Embedding(4, 8)

    def forward(self, x: Tensor, label: Tensor) -> Any:
        h = self.first(x).relu()
        return h.sum(1) + (h * self.label(label)).sum(1)


def test_one_looked_up_entry_is_said() -> None:
    """One index of one sample: nothing tells that axis from the features that it is multiplied with."""
    note = "the example looks up one entry of label.weight alone, so its row may be another's: give two samples or more"
    assert note in normc.plan(Judge(), (torch.randn(1, 6), torch.tensor([2]))).notes
    plan = normc.plan(Judge(), (torch.randn(2, 6), torch.tensor([2, 3])))
    assert note not in plan.notes
    assert plan["label.weight"].role == "embedding"


def test_one_token_a_sample_is_said() -> None:
    """What goes over places, as a scan or relative positions, can't be seen of one."""
    notes = [normc.plan(Embedded("arange"), torch.ones(2, length, dtype=torch.long)).notes for length in (1, 2)]
    assert [any("one entry of tokens.weight a sample" in note for note in own) for own in notes] == [True, False]
