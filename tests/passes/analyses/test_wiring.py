from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc.plans.wiring import Wiring


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(self.norm(x))))


class Stream(nn.Module):
    """A table, two blocks on a residual stream, a skip past both, and the table again as the head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.blocks = nn.Embedding(16, 8), nn.ModuleList([Block(), Block()])
        self.mix, self.head = nn.Linear(16, 8), nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight
        self.spare = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        first = self.table(tokens)
        x = first
        for block in self.blocks:
            x = block(x)
        return self.head(self.mix(torch.cat([x, first], dim=-1)))


def told(wiring: Wiring) -> list[tuple[str, str, int, bool]]:
    names = [*wiring.points, *(f"+{path}" for path in wiring.joins), "inputs", "output"]
    short = [name.removesuffix(".weight").replace("blocks.", "") for name in names]
    return [(short[edge.source], short[edge.target], edge.entries, edge.stream) for edge in wiring.edges]


def test_edges_follow_the_values_and_streams_lead_to_joins() -> None:
    wiring = normc.plan(Stream(), torch.arange(6).reshape(2, 3)).wiring
    assert wiring is not None
    assert told(wiring) == [
        ("inputs", "table", 6, False),
        ("table", "0.norm", 48, False),
        ("0.norm", "0.up", 48, False),
        ("0.up", "0.down", 192, False),
        ("table", "+0", 48, True),
        ("0.down", "+0", 48, False),
        ("+0", "1.norm", 48, False),
        ("1.norm", "1.up", 48, False),
        ("1.up", "1.down", 192, False),
        ("+0", "+1", 48, True),
        ("1.down", "+1", 48, False),
        ("table", "mix", 96, False),
        ("+1", "mix", 96, False),
        ("mix", "head", 48, False),
        ("head", "output", 96, False),
    ]


def test_a_value_of_many_sources_keeps_the_latest() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts, self.last = nn.ModuleList(nn.Linear(4, 1) for _ in range(90)), nn.Linear(90, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([part(x) for part in self.parts], dim=-1))

    wiring = normc.plan(Wide(), torch.ones(2, 4)).wiring
    assert wiring is not None
    last = wiring.points.index("last.weight")
    sources = [wiring.points[edge.source] for edge in wiring.edges if edge.target == last]
    assert sources == [f"parts.{i}.weight" for i in range(26, 90)]


def test_what_only_masks_reaches_no_layer() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.two(self.one(x) * mask)

    wiring = normc.plan(Masked(), (torch.ones(2, 4), torch.ones(2, 4))).wiring
    assert wiring is not None
    assert told(wiring) == [("inputs", "one", 8, False), ("one", "two", 8, False), ("two", "output", 8, False)]
