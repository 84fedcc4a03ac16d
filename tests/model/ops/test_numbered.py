"""Tokens picked by number: of streams of their own they are a stack, of one stream the places of a table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.ops.net import Forward, Shapes, rows


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


def prefixes(unbound: bool, one_line: bool) -> Forward:
    """Memory of keys and of values in one parameter (2, places, features), in front of both."""

    def forward(net: Any, h: Tensor) -> Tensor:
        q, k, v = (h @ net.qkv.mT).chunk(3, -1)
        first, second = list(net.mem) if unbound else (net.mem[0], net.mem[1])
        first, second = (part.expand(4, -1, -1) for part in (first, second))
        if one_line:
            k, v = torch.cat((first, k), -2), torch.cat((second, v), -2)
        else:
            k = torch.cat((first, k), -2)
            v = torch.cat((second, v), -2)
        return attended(q, k, v)

    return forward


@pytest.mark.parametrize("one_line", [True, False])
@pytest.mark.parametrize("unbound", [True, False])
def test_memories_of_keys_and_values_are_two_blocks(unbound: bool, one_line: bool) -> None:
    shapes: Shapes = {"mem": (2, 3, 24), "qkv": (72, 24)}
    assert rows(shapes, prefixes(unbound, one_line)) == ["token bxo rms", "hidden oi spectral 24 24 24"]


def test_heads_stay_features() -> None:
    def forward(net: Any, h: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, 6)).transpose(1, 2) for part in (h @ net.qkv.mT).chunk(3, -1))
        first, second = (part.expand(4, -1, -1, -1) for part in net.mem)
        k, v = torch.cat((first, k), -2), torch.cat((second, v), -2)
        return attended(q, k, v).transpose(1, 2).flatten(2)

    shapes: Shapes = {"mem": (2, 4, 3, 6), "qkv": (72, 24)}
    assert rows(shapes, forward)[0] == "token boxo rms"


def test_a_token_for_each_of_two_layers_is_a_block() -> None:
    """What the first one joined reaches the second through a weight alone."""

    def forward(net: Any, h: Tensor) -> Tensor:
        h = torch.cat((net.t[0].expand(4, 1, -1), h), 1)
        h = (h @ net.w).relu()
        return torch.cat((net.t[1].expand(4, 1, -1), h), 1)

    assert rows({"t": (2, 24), "w": (24, 24)}, forward)[0] == "token bo rms"


def together(net: Any, h: Tensor) -> Tensor:
    return torch.cat((net.t[0].expand(4, 1, -1), net.t[1].expand(4, 1, -1), h), 1)


def one_after_the_other(net: Any, h: Tensor) -> Tensor:
    h = torch.cat((net.t[0].expand(4, 1, -1), h), 1)
    return torch.cat((net.t[1].expand(4, 1, -1), h.tanh()), 1)


def of_one_input(net: Any, h: Tensor) -> Tensor:
    return torch.cat((net.t[0].expand(4, 1, -1), h), 1) + torch.cat((net.t[1].expand(4, 1, -1), h), 1)


@pytest.mark.parametrize("forward", [together, one_after_the_other, of_one_input])
def test_tokens_of_one_stream_are_the_places_of_a_table(forward: Forward) -> None:
    assert rows({"t": (2, 24)}, forward) == ["token xo rms"]
