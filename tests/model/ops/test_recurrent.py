"""Learned initial states of recurrent layers and cells: operands, one for each layer and direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from tests.model.ops.net import rows

Make = Callable[..., Any]

LAYERS: tuple[Make, ...] = (nn.RNN, nn.GRU, nn.LSTM)
CELLS: tuple[Make, ...] = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)


def learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


class Recurrent(nn.Module):
    """Starts from learned states, which every sample shares."""

    def __init__(self, layer: Make, count: int = 1, **options: Any) -> None:
        super().__init__()
        self.layer = layer(5, 8, batch_first=True, num_layers=count, **options)
        self.h0 = learned(count * (1 + self.layer.bidirectional), 1, self.layer.proj_size or 8)
        self.c0 = learned(len(self.h0), 1, 8) if layer is nn.LSTM else None
        self.head = nn.Linear((self.layer.proj_size or 8) * (1 + self.layer.bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        states = [state.expand(-1, len(x), -1).contiguous() for state in (self.h0, self.c0) if state is not None]
        out: Tensor = self.head(self.layer(x, states[0] if len(states) == 1 else tuple(states))[0])
        return out


@pytest.mark.parametrize("layer", LAYERS)
def test_initial_states_are_operands(layer: Make) -> None:
    rows = normc.plan(Recurrent(layer), torch.randn(4, 6, 5), strict=True).rows
    states = [row for row in rows if row.name in ("h0", "c0")]
    assert [(row.role, row.in_axes, row.out_axes, row.block_axes) for row in states] == [("token", (), (2,), ())] * len(
        states
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_and_directions_have_a_state_of_their_own(layer: Make) -> None:
    plan = normc.plan(Recurrent(layer, count=2, bidirectional=True), torch.randn(4, 6, 5), strict=True)
    row = plan.by_name["h0"]
    assert (row.role, row.in_axes, row.out_axes, row.block_axes) == ("token", (), (2,), (0,))


def test_a_projection_stays_a_matrix_beside_its_states() -> None:
    plan = normc.plan(Recurrent(nn.LSTM, proj_size=4), torch.randn(4, 6, 5), strict=True)
    found = {row.name: (row.role, row.in_axes, row.out_axes) for row in plan.rows if "bias" not in row.name}
    assert found == {
        "h0": ("token", (), (2,)),
        "c0": ("token", (), (2,)),
        "layer.weight_ih_l0": ("input", (1,), (0,)),
        "layer.weight_hh_l0": ("hidden", (1,), (0,)),
        "layer.weight_hr_l0": ("hidden", (1,), (0,)),
        "head.weight": ("output", (1,), (0,)),
    }


@pytest.mark.parametrize("cell", CELLS)
def test_initial_states_of_cells_are_operands(cell: Make) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = cell(5, 8), nn.Linear(8, 3)
            self.h0, self.c0 = learned(8), learned(1, 8) if cell is nn.LSTMCell else None

        def forward(self, x: Tensor) -> Tensor:
            h = self.h0.expand(len(x), -1)
            c = self.c0.expand(len(x), -1) if self.c0 is not None else None
            for t in range(x.shape[1]):
                if c is None:
                    h = self.cell(x[:, t], h)
                else:
                    h, c = self.cell(x[:, t], (h, c))
            out: Tensor = self.head(h)
            return out

    rows = normc.plan(Loop(), torch.randn(4, 3, 5), strict=True).rows
    assert {row.role for row in rows if row.name in ("h0", "c0")} == {"token"}


def test_a_state_behind_a_function_is_a_state() -> None:
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.h0, self.head = nn.GRU(5, 8), learned(1, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.layer(x, self.h0.tanh())[0])
            return out

    assert normc.plan(Bounded(), torch.randn(6, 5), strict=True).by_name["h0"].role == "state"


def test_states_that_a_layer_makes_are_its_parts() -> None:
    class Described(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.layer, self.head = nn.Linear(5, 16), nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h, c = (state[None].contiguous() for state in self.start(x.mean(1)).chunk(2, dim=-1))
            out: Tensor = self.head(self.layer(x, (h, c))[0])
            return out

    row = normc.plan(Described(), torch.randn(4, 6, 5), strict=True).by_name["start.weight"]
    assert [block.size for block in row.blocks] == [8, 8]


STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": lambda h: torch.zeros(4, 24),
    "ones": lambda h: torch.ones(4, 24),
    "zeros of a shape": lambda h: torch.zeros_like(h[:, 0]),
    "new zeros": lambda h: h.new_zeros(4, 24),
    "half of zeros": lambda h: h.new_zeros(4, 48).chunk(2, -1)[1].tanh(),
    "data": lambda h: h[:, 0],
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_what_multiplies_a_state_is_a_gain(start: Callable[[Tensor], Tensor]) -> None:
    def forward(net: Any, h: Tensor) -> Tensor:
        y, found = start(h), []
        for step in range(h.shape[1]):
            y = (h[:, step] + net.u * y + net.b).relu()
            found.append(y)
        return torch.stack(found, 1)

    assert rows({"u": (24,), "b": (24,)}, forward) == ["gain o rms", "bias o rms"]


def test_peepholes() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = c = x.new_zeros(4, 24)
        found = []
        for step in range(x.shape[1]):
            i, f, g, o = (x[:, step] @ net.w + h @ net.r + net.b).chunk(4, -1)
            c = (f + net.pf * c).sigmoid() * c + (i + net.pi * c).sigmoid() * g.tanh()
            h = (o + net.po * c).sigmoid() * c.tanh()
            found.append(h)
        return torch.stack(found, 1)

    shapes = {"w": (24, 96), "r": (24, 96), "b": (96,), "pf": (24,), "pi": (24,), "po": (24,)}
    matrix, peephole = "hidden io spectral 24 24 24 24", "gain o rms"
    assert rows(shapes, forward) == [matrix, matrix, "bias o rms 24 24 24 24", peephole, peephole, peephole]


def test_peepholes_of_every_place() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = x[..., None].expand(-1, -1, -1, 5)  # [batch, time, channels, places]
        c = x.new_zeros(4, 24, 5)
        for step in range(x.shape[1]):
            c = c + (torch.conv1d(x[:, step], net.w) + net.p * c).sigmoid()
        return c.mT

    found = rows({"p": (1, 24, 5), "w": (24, 24, 1)}, forward)
    assert [row.split()[0] for row in found] == ["state", "hidden"]
