"""A position is one along places that the activation has: not one of new features, of a stack, or of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc

Forward = Callable[[Any, Tensor], Tensor]
Rows = dict[str, tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

X = torch.randn(4, 9, 10, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A stem to 12 features, the part under test, and a head."""

    def __init__(self, forward: Forward, shapes: dict[str, tuple[int, ...]], stem: nn.Module, width: int) -> None:
        super().__init__()
        self.stem, self.head = stem, nn.Linear(width, 5)
        self.again = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(*shape)))
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def read(forward: Forward, x: Tensor = X, width: int = 12, **shapes: tuple[int, ...]) -> Rows:
    """Role, fan-in (or index), fan-out and block axes of the parameters under test."""
    stem = nn.Conv2d(3, 12, 3, padding=1) if x is IMAGE else nn.Linear(10, 12)
    plan = normc.plan(Net(forward, shapes, stem, width), x)
    rows = [plan.by_name[name] for name in shapes]
    assert all(row.fallback is None for row in rows)
    return {row.name: (row.role, row.in_axes, row.out_axes, row.block_axes) for row in rows}


ARANGE, FAR = torch.arange(9), torch.arange(9)[:, None] - torch.arange(9) + 8


def windows(net: Any, x: Tensor) -> Tensor:
    q = net.stem(x).view(4, 9, 3, 4).transpose(1, 2)
    scores = q @ q.mT + net.table[FAR.view(-1)].view(9, 9, 3).permute(2, 0, 1)
    out: Tensor = net.head((scores.softmax(-1) @ q).transpose(1, 2).flatten(2))
    return out


def by_steps(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(torch.stack([net.stem(x[:, t]) + net.table[t] for t in range(9)], dim=1))
    return out


def of_windows(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(F.unfold(net.stem(x), 4, stride=4).transpose(1, 2) + net.table)
    return out


def unshuffled(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(F.pixel_unshuffle(net.stem(x), 4).flatten(2).transpose(1, 2) + net.table)
    return out


def crossed(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(net.stem(x) + (net.table[:, None] + net.columns).flatten(0, 1))
    return out


def first_row(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(net.stem(x) + (net.table[:, None] + net.columns).flatten(0, 1)[:9])
    return out


def axial(net: Any, x: Tensor) -> Tensor:
    both = [net.table[None, :, None].expand(4, 8, 16, 6), net.columns[None, None].expand(4, 8, 16, 6)]
    out: Tensor = net.head(net.stem(x) + torch.cat(both, -1)[:, :1].flatten(1, 2)[:, :9])
    return out


def resized_to_one(net: Any, x: Tensor) -> Tensor:
    table = F.interpolate(net.table.T.view(1, 12, 4, 4), size=(1, 1), mode="bilinear")
    out: Tensor = net.head(net.stem(x[:, :1]) + table.flatten(2).mT)
    return out


def beside_others(net: Any, x: Tensor) -> Tensor:
    asked = torch.ones(4, 1, 1) * (net.stem.bias + net.table[1:10])
    out: Tensor = net.head(torch.cat([net.stem(x) + net.table[:9], asked], 1))
    return out


def in_windows(net: Any, x: Tensor) -> Tensor:
    windows = F.unfold(net.stem(x), 4, stride=4).view(2, 12, 16, 4)
    out: Tensor = net.head(windows.permute(0, 3, 2, 1).flatten(1, 2) + net.table)
    return out


PLACES: dict[str, tuple[Forward, Tensor, int, dict[str, tuple[int, ...]]]] = {
    "a table": (lambda n, x: n.head(n.stem(x) + n.table), X, 12, {"table": (9, 12)}),
    "the first rows of a table": (lambda n, x: n.head(n.stem(x) + n.table[:9]), X, 12, {"table": (16, 12)}),
    "expanded": (lambda n, x: n.head(n.stem(x) + n.table.expand(4, -1, -1)), X, 12, {"table": (9, 12)}),
    "repeated": (lambda n, x: n.head(n.stem(x) + n.table.repeat(4, 1, 1)), X, 12, {"table": (9, 12)}),
    "looked up": (lambda n, x: n.head(n.stem(x) + F.embedding(ARANGE, n.table)), X, 12, {"table": (16, 12)}),
    "indexed": (lambda n, x: n.head(n.stem(x) + n.table[ARANGE]), X, 12, {"table": (16, 12)}),
    "rows and columns": (crossed, X, 12, {"table": (3, 12), "columns": (3, 12)}),
    "relative in windows": (windows, X, 12, {"table": (17, 3)}),
    "step by step": (by_steps, X, 12, {"table": (9, 12)}),
    "the first row of rows and columns": (first_row, X, 12, {"table": (8, 12), "columns": (16, 12)}),
    "beside each other, the first row": (axial, X, 12, {"table": (8, 6), "columns": (16, 6)}),
    "one place": (lambda n, x: n.head(n.stem(x[:, :1]) + n.table[:1]), X, 12, {"table": (9, 12)}),
    "resized to one place": (resized_to_one, X, 12, {"table": (16, 12)}),
    "of a long table, and beside others": (beside_others, X, 12, {"table": (64, 12)}),
    "on raw inputs": (lambda n, x: n.head(n.stem(x + n.table)), X, 12, {"table": (9, 10)}),
    "on patches of features": (of_windows, IMAGE, 192, {"table": (4, 192)}),
    "on entries of windows": (in_windows, IMAGE, 12, {"table": (64, 12)}),
    "on features put into channels": (unshuffled, IMAGE, 192, {"table": (4, 192)}),
}


@pytest.mark.parametrize("name", PLACES)
def test_one_entry_for_each_place_is_a_position(name: str) -> None:
    forward, x, width, shapes = PLACES[name]
    found = read(forward, x, width, **shapes)
    assert set(found.values()) == {("position", (0,), (1,), ())}


def test_a_position_on_an_image_has_its_channels_as_features() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        out: Tensor = net.head(net.stem(x + net.table).mean((2, 3)))
        return out

    assert read(forward, IMAGE, table=(1, 3, 8, 8))["table"] == ("position", (2, 3), (1,), ())


def test_a_running_sum_of_a_mask_counts_places() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.table, self.head = nn.Linear(10, 12), nn.Embedding(16, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            out: Tensor = self.head(self.stem(x) + self.table(mask.cumsum(-1) * mask - 1))
            return out

    plan = normc.plan(Masked(), (X, torch.ones(4, 9, dtype=torch.long)))
    assert plan.by_name["table.weight"].role == "position"


class Two(nn.Module):
    """Two tables, looked up by two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Embedding(40, 12), nn.Embedding(40, 12), nn.Linear(12, 5)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.head(self.first(a) + self.second(b))
        return out


LABELS = [
    (torch.tensor([30, 5]), torch.tensor([1, 2])),
    (torch.tensor([30, 5]), torch.tensor([7, 3])),
    (torch.tensor([30, 5, 9, 2]), torch.arange(4)),
    (torch.randint(40, (4, 9)), torch.arange(5, 14).expand(4, -1)),
    (torch.arange(9).expand(4, -1), torch.ones(4, 9, dtype=torch.long)),
]


@pytest.mark.parametrize("inputs", LABELS)
def test_labels_are_no_places_whatever_they_are(inputs: tuple[Tensor, Tensor]) -> None:
    assert [row.role for row in normc.plan(Two(), inputs).rows[:2]] == ["embedding", "embedding"]


@pytest.mark.parametrize("shape", [(4, 9), (1, 9)])
def test_places_that_are_given_count_up_beside_tokens(shape: tuple[int, int]) -> None:
    tokens = torch.randint(40, (4, 9), generator=torch.Generator().manual_seed(0))[: shape[0]]
    plan = normc.plan(Two(), (tokens, torch.arange(9).expand(*shape)))
    assert [row.role for row in plan.rows[:2]] == ["embedding", "position"]


def test_labels_that_are_dropped_at_random_are_no_places() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(11, 12), nn.Linear(12, 5)

        def forward(self, labels: Tensor, x: Tensor) -> Tensor:
            kept = torch.where(torch.rand(labels.shape) < 0.1, 10, labels)
            out: Tensor = self.head(self.table(kept) + x)
            return out

    assert normc.plan(Dropped(), (torch.arange(6), torch.randn(6, 12))).by_name["table.weight"].role == "embedding"


def residuals(net: Any, x: Tensor) -> Tensor:
    h = net.stem(x)
    shares = h.softmax(-1)[..., :7, None]
    out: Tensor = net.head((shares * (h[:, :, None] - net.table)).sum((1, 2)))
    return out


def shifted(net: Any, x: Tensor) -> Tensor:
    shift, scale = (net.table + net.stem(x).mean(1, keepdim=True)).chunk(2, dim=1)
    out: Tensor = net.head(net.stem(x) * (1 + scale) + shift)
    return out


def transitions(net: Any, x: Tensor) -> Tensor:
    scores = net.stem(x)
    best = scores[:, 0]
    for t in range(1, 9):
        best = torch.logsumexp(best[:, :, None] + net.table + scores[:, t, None], dim=1)
    return torch.logsumexp(best, dim=-1)


OUTER: dict[str, tuple[Forward, int, tuple[int, int], str]] = {
    "residuals to centres": (residuals, 12, (7, 12), "state"),
    "shift and scale": (shifted, 12, (2, 12), "bias"),
    "transitions": (transitions, 12, (12, 12), "bias"),
}


@pytest.mark.parametrize("name", OUTER)
def test_an_axis_that_the_activation_is_repeated_along_is_one_of_features(name: str) -> None:
    forward, width, shape, role = OUTER[name]
    assert read(forward, width=width, table=shape) == {"table": (role, (), (0, 1), ())}


def layers(net: Any, x: Tensor) -> Tensor:
    h = net.stem(x)
    for i in range(3):
        h = h + torch.tanh(h @ net.w[i] + net.b[i]) * net.g[i]
    out: Tensor = net.head(h)
    return out


def experts(net: Any, x: Tensor) -> Tensor:
    h = net.stem(x)
    shares = h.softmax(-1)
    out: Tensor = net.head(sum(shares[..., i : i + 1] * (h @ net.w[i] + net.b[i]) * net.g[i] for i in range(3)))
    return out


def called(net: Any, x: Tensor) -> Tensor:
    h = net.stem(x)
    for i in range(3):
        h = F.linear(h, net.w[i], net.b[i]).relu() * net.g[i]
    out: Tensor = net.head(h)
    return out


def walked(net: Any, x: Tensor) -> Tensor:
    h = net.stem(x)
    for w, b, g in zip(net.w, net.b.unbind(0), net.g.chunk(3), strict=True):
        h = h + torch.addmm(b, h.flatten(0, 1), w).relu().view_as(h) * g
    out: Tensor = net.head(h)
    return out


def columns(net: Any, x: Tensor) -> Tensor:
    h = net.stem(x)
    for i, layer in enumerate(net.again):
        h = h + layer(h + net.b.T[:, i]) * net.g.T[:, i]
    out: Tensor = net.head(h)
    return out


@pytest.mark.parametrize("forward", [layers, experts, called, walked])
def test_what_a_number_picks_from_a_stack_has_its_matrices_blocks(forward: Forward) -> None:
    found = read(forward, w=(3, 12, 12), b=(3, 12), g=(3, 12))
    assert found["w"][3] == (0,)
    assert found["b"] == ("bias", (), (1,), (0,))
    assert found["g"] == ("gain", (), (1,), (0,))


def test_vectors_of_layers_in_one_tensor_are_a_stack() -> None:
    assert read(columns, b=(3, 12), g=(3, 12)) == {"b": ("bias", (), (1,), (0,)), "g": ("gain", (), (1,), (0,))}


def test_tables_in_one_tensor_are_a_stack() -> None:
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables, self.head = nn.Parameter(torch.randn(3, 20, 12)), nn.Linear(12, 5)

        def forward(self, codes: Tensor) -> Tensor:
            out: Tensor = self.head(sum(F.embedding(codes[..., i], self.tables[i]) for i in range(3)))
            return out

    row = normc.plan(Codes(), torch.randint(20, (4, 9, 3))).by_name["tables"]
    assert (row.role, row.in_axes, row.out_axes, row.block_axes) == ("embedding", (1,), (2,), (0,))


def test_a_step_of_a_stack_of_vectors_has_one_size_a_vector() -> None:
    net = Net(columns, {"b": (3, 12), "g": (3, 12)}, nn.Linear(10, 12), 12)
    plan = normc.plan(net, X, recipe="uscion")
    opt = normc.compile(net, plan=plan, lr=1.0, compile=False)
    before = net.get_parameter("b").detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    net.get_parameter("b").grad[0] *= 100  # type: ignore[index]  # set above
    opt.step()
    sizes = (net.get_parameter("b").detach() - before).square().mean(1).sqrt()
    assert torch.allclose(sizes, torch.full((3,), plan.by_name["b"].scale.value), rtol=1e-3)


def patches(net: Any, x: Tensor) -> Tensor:
    h = x.view(2, 3, 2, 4, 2, 4).permute(0, 3, 5, 1, 2, 4).reshape(2, 48, 2, 2)
    h = (h - h.mean(1, keepdim=True)) / h.std(1, keepdim=True) * net.g + net.b
    out: Tensor = net.head(F.conv2d(h, net.w).relu().mean((2, 3)))
    return out


def channels(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(net.stem(F.pad(x * net.g + net.b, (1, 1, 1, 1))).mean((2, 3)))
    return out


def turned(net: Any, x: Tensor) -> Tensor:
    h = x.transpose(1, 2)
    out: Tensor = net.head(net.stem((h * net.g + net.b).transpose(1, 2)))
    return out


def cut_up(net: Any, x: Tensor) -> Tensor:
    h = (x * net.g + net.b).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)
    out: Tensor = net.head((h @ net.w).mean((1, 2)))
    return out


def by_letters(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(torch.einsum("bct,oc->bto", x.mT * net.g + net.b, net.w))
    return out


CONTRACTED: dict[str, tuple[Forward, Tensor, dict[str, tuple[int, ...]]]] = {
    "patches of pixels": (patches, IMAGE, {"g": (48, 1, 1), "b": (48, 1, 1), "w": (12, 48, 1, 1)}),
    "channels before a convolution": (channels, IMAGE, {"g": (3, 1, 1), "b": (3, 1, 1)}),
    "channels before patches": (cut_up, IMAGE, {"g": (3, 1, 1), "b": (3, 1, 1), "w": (48, 12)}),
    "channels before an einsum": (by_letters, X, {"g": (10, 1), "b": (10, 1), "w": (12, 10)}),
    "inputs turned round": (turned, X, {"g": (10, 1), "b": (10, 1)}),
}


@pytest.mark.parametrize("name", CONTRACTED)
def test_an_axis_that_the_next_layer_sums_over_is_one_of_features(name: str) -> None:
    forward, x, shapes = CONTRACTED[name]
    found = read(forward, x, 12, **shapes)
    assert found["g"] == ("gain", (), (0,), ())
    assert found["b"] == ("bias", (), (0,), ())


def test_an_entry_of_a_weight_that_activations_had_a_part_in_counts_no_places() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.stem(x)
        scaled = net.w * h.mean((0, 1))[:, None]
        out: Tensor = net.head(h * scaled[0] + h @ scaled)
        return out

    assert read(forward, w=(12, 12))["w"][0] in ("hidden", "state", "gain")
